"""Ask about one image, in one call."""

from tessera import LLM

with LLM("nano") as llm:  # or a short name, a folder, a GGUF file or a hub id
    completion = llm.ask("What is the value of Rome?", "chart.png")
    print(completion.text)
    print(completion.usage.image_tokens, "image tokens,", completion.finish_reason)
