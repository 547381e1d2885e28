//! The typed client, informers, the controller runtime, leader election and the event recorder.
