"""What nano is measured with: pictures by programs that its training never used, and the rules of scoring.

`trial` is one question with its right answer, `scoring` compares. `drawn` takes training's own pages
from held-out seeds, typefaces and layouts; `plots`, `pygal_charts`, `web_papers` and `real_pages` come
from other programs; `tesseract` is the reader beside it.
"""
