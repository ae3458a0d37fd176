"""Fine-tuning: data files to samples, packs, and a run that resumes as if it had never stopped."""
