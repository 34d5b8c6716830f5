"""Who teaches whom, and when: offline, online, self- and data-free distillation."""
