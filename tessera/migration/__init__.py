"""Moving from one model to another: both read the same documents, and what they say is compared value by value."""
