//! etcd: the storage envelope, guarded transactions and the watch cache over encoded objects.
