//! Drives asyncjob jobs on tokio.
