"""The engine behind HTTP: the OpenAI and Mistral APIs, and a page to talk to it."""
