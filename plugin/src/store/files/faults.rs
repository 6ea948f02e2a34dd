//! Lets a test fail or stop this thread's process at its n-th change of a file system, and remembers what of a durable folder was synced.
