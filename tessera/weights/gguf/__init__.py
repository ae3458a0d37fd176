"""GGUF files, llama.cpp's: a text model and its picture part ("mmproj"), in and out."""
