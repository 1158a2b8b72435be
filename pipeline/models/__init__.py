"""Language models: fetching, loading, sampling from them, and scoring texts."""
