"""Op fgsm: sign, scaled add and clamp in one pass."""
