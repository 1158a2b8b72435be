"""One script for each DVC stage: reads params and inputs, calls the library, writes outputs."""
