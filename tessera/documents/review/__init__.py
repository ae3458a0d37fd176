"""The review report: one HTML file in which a person checks what was extracted and corrects it."""
