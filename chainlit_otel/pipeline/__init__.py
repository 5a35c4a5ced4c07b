"""From the catalogue to OpenTelemetry: providers, instruments, spans. Knows no Chainlit."""
