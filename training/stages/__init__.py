"""Stages of a run: fine-tuning, distillation, publishing. Each is done once and resumed after a kill."""
