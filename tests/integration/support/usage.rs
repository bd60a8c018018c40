//! What a process uses, as the system sees it.

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub memory: usize,
    pub peak: usize,
    pub threads: usize,
    pub descriptors: usize,
}

/// What the process `pid` uses now.
pub(crate) fn usage(pid: u32) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> usize {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Usage {
        memory: field("VmRSS:") << 10,
        peak: field("VmHWM:") << 10,
        threads: field("Threads:"),
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
    }
}
