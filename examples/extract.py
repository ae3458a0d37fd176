"""Turn documents into records that follow a class, offline with nano."""

from datetime import date

from pydantic import BaseModel

from tessera.documents import extract


class Receipt(BaseModel):
    vendor: str
    date: date
    total: float


for record in extract(["receipt.png"], schema=Receipt, model="nano"):
    print(record.document, record.error or record.value, "please review" if record.review else "good")
    for path, field in record.fields.items():
        print(f"  {path}: {field.value!r}, printed {field.raw!r}, {field.state}, score {field.score:.2f}")
