//! Figures as the screen writes them.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(crate) use crate::model::size::grouped;
use crate::model::text::printable_path;

const TIB: u64 = 1 << 40;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// Bytes without decimals: whole GiB, smaller units below one of them, whole TiB where the GiB would have five digits.
pub(crate) fn whole(bytes: u64) -> String {
    let rounded = |unit: u64| bytes.saturating_add(unit / 2) / unit;
    match (rounded(KIB), rounded(MIB), rounded(GIB)) {
        (0, _, _) => format!("{bytes} B"),
        (kib @ ..1024, _, _) => format!("{kib} KiB"),
        (_, mib @ ..1024, _) => format!("{mib} MiB"),
        (_, _, gib @ ..10_000) => format!("{gib} GiB"),
        _ => format!("{} TiB", rounded(TIB)),
    }
}

/// Time since then in one unit: `now`, `12m`, `3h`, `41d`, `14mo`, `3y`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second());
    let (minute, hour, day) = (60, 3600, 86_400);
    match seconds {
        ..60 => "now".to_owned(),
        s if s < hour => format!("{}m", s / minute),
        s if s < day => format!("{}h", s / hour),
        s if s < 400 * day => format!("{}d", s / day),
        s if s < 3 * 365 * day => format!("{}mo", s / (30 * day)),
        s => format!("{}y", s / (365 * day)),
    }
}

/// A moment of today as the clock on the wall says it, another one with its date.
pub(crate) fn clock(then: Timestamp, now: Timestamp, zone: Option<&TimeZone>) -> String {
    let zone = zone.cloned().unwrap_or(TimeZone::UTC);
    let (then, now) = (then.to_zoned(zone.clone()), now.to_zoned(zone));
    let form = if then.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    then.strftime(form).to_string()
}

/// A count in at most four characters: `999`, `12K`, `3M`.
pub(crate) fn short(count: u64) -> String {
    match count {
        0..=9_999 => count.to_string(),
        10_000..=999_999 => format!("{}K", count / 1000),
        1_000_000..=999_999_999 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

/// One or several.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A path, with `~` for the home folder.
pub(crate) fn path(path: &Path, home: &Path) -> String {
    if !home.as_os_str().is_empty()
        && home != Path::new("/")
        && let Ok(rest) = path.strip_prefix(home)
        && !rest.as_os_str().is_empty()
    {
        return format!("~/{}", printable_path(rest));
    }
    printable_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(whole(0), "0 B");
        assert_eq!(whole(700 * KIB), "700 KiB");
        assert_eq!(whole(1023 * MIB + MIB - 1), "1 GiB");
        assert_eq!(whole(412 * GIB + GIB / 4), "412 GiB");
        assert_eq!(whole(20 * TIB), "20 TiB");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(short(1_234_567), "1M");
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(2_000_000_000 - seconds).unwrap(), now);
        assert_eq!([ago(-5), ago(59), ago(720), ago(11_000), ago(41 * 86_400)], ["now", "now", "12m", "3h", "41d"]);
        assert_eq!(clock(now, now, None), "03:33:20");
        assert_eq!(clock(Timestamp::from_second(2_000_100_000).unwrap(), now, None), "2033-05-19 07:20");
        assert_eq!([ago(500 * 86_400), ago(1200 * 86_400)], ["16mo", "3y"]);
        assert_eq!(path(Path::new("/home/a/x"), Path::new("/home/a")), "~/x");
        assert_eq!(path(Path::new("/home/ab/x"), Path::new("/home/a")), "/home/ab/x");
    }
}
