"""Reading and writing of llama.cpp's GGUF files: a text model and its image part ("mmproj")."""
