//! Times, money and tokens as every channel shows them.

/// `0.8s`, `12.3s`, `3m 05s`, `1h 02m`, `3d 4h`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{}s", seconds, ms % 1000 / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago: `34s`, `3m`, `5h`, `12d`.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `850`, `12.3k`, `4.5M`.
pub fn tokens(count: u64) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..1_000_000 => format!("{}.{}k", count / 1000, count % 1000 / 100),
        _ => format!("{}.{}M", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

/// `$0`, `$0.0312`, `$4.20`.
pub fn dollars(usd: f64) -> String {
    if usd <= 0.0 {
        "$0".to_owned()
    } else if usd < 0.1 {
        format!("${usd:.4}")
    } else {
        format!("${usd:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [850, 12_340, 185_000, 3_725_000, 280_000_000].map(duration),
            ["0.8s", "12.3s", "3m 05s", "1h 02m", "3d 5h"]
        );
        assert_eq!([0, 999, 12_345, 4_560_000].map(tokens), ["0", "999", "12.3k", "4.5M"]);
        assert_eq!([0.0, 0.03124, 4.2].map(dollars), ["$0", "$0.0312", "$4.20"]);
    }
}
