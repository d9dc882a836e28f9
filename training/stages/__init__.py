"""This package holds the stages of a run: fine-tuning, distillation, publishing. A killed stage resumes."""
