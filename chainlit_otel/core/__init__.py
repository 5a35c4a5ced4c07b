"""The domain: session books, peaks, label values. Standard library only, clocks injected."""
