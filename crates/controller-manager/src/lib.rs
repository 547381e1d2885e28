//! The controllers, each a reconcile function over the shared runtime.
