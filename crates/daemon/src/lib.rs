//! What every daemon shares: flags and configuration, tracing, metrics, health, TLS with reload, shutdown.
