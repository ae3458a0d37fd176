"""Print a reply while it is written."""

from tessera import LLM, SamplingParams

messages = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": "chart.png"},
            {"type": "text", "text": "Which bar is highest?"},
        ],
    }
]
with LLM("nano") as llm:
    for delta in llm.stream(messages, SamplingParams(temperature=0.7, top_p=0.9, seed=1, max_tokens=50)):
        print(delta.text, end="", flush=True)
    print()
