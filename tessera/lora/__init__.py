"""LoRA adapters: reading and writing their files, putting them beside a model's linears, merging them into weights."""
