//! The clipboard of the terminal at the other end, by OSC 52.

/// The bytes that put `text` on the clipboard. Behind tmux they are sent in its wrapping too: which of the two it lets
/// through is its user's setting.
pub(super) fn sequence(text: &str, multiplexer: bool) -> Vec<u8> {
    let osc = format!("\x1b]52;c;{}\x07", base64(text.as_bytes()));
    let mut bytes = osc.clone().into_bytes();
    if multiplexer {
        bytes.extend_from_slice(format!("\x1bPtmux;{}\x1b\\", osc.replace('\x1b', "\x1b\x1b")).as_bytes());
    }
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([0, 0].iter()).take(3).fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        for at in 0..4 {
            let digit = usize::try_from(group >> (18 - 6 * at) & 63).unwrap_or(0);
            out.push(if at > chunk.len() { '=' } else { char::from(DIGITS[digit]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_everybody_writes_it() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("/data/模", "L2RhdGEv5qih"),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
        assert_eq!(sequence("foo", false), b"\x1b]52;c;Zm9v\x07");
        assert!(sequence("foo", true).ends_with(b"\x1bPtmux;\x1b\x1b]52;c;Zm9v\x07\x1b\\"));
    }
}
