"""What engines read of a model's files by transformers: its tokenizer, its generation config, GGUF."""
