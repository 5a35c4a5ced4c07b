"""The domain: ledgers, peaks, label values. Standard library only, clocks injected."""
