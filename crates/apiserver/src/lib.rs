//! The API server: one pipeline per verb over etcd, served as gRPC.
