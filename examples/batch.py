"""Answer many conversations at once."""

from tessera import LLM, Image, Message

questions = ["What is the value of Q1?", "What is the value of Q2?", "Which bar is highest?"]
conversations = [[Message("user", (Image("chart.png"), question))] for question in questions]
with LLM("nano") as llm:
    for question, completion in zip(questions, llm.batch(conversations), strict=True):
        print(question, completion.text)
