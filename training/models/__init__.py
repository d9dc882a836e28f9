"""Networks behind one contract: `forward(input_ids, attention_mask, word_shape) -> logits`."""
