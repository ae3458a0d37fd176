"""Documents into data: pages, extraction, confidence, places, and jobs that go on after an interruption."""
