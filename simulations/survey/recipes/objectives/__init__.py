"""What distillation is for: compression, enhancement, expansion, adaptation."""
