"""The HTTP server: the OpenAI and Mistral APIs over the engine, and a web page to try it."""
