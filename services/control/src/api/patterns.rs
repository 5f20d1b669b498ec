//! What the text fields of the API look like, as regular expressions (ECMA 262) for the OpenAPI document. They say the
//! same as the functions that read these fields, so that an editor or a generated client refuses what control would.

use std::fmt::Write as _;

/// A name, or the id of something in its place.
pub const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
/// A time of day.
pub const CLOCK: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// A country.
pub const COUNTRY: &str = "^[A-Z]{2}$";
/// Text on one line.
pub const LINE: &str = r"^[^\u0000-\u001F\u007F]+$";
/// Any text.
pub const TEXT: &str = r"^[^\u0000]*$";
/// A version in a condition.
pub const VERSION: &str = r"^[0-9]{1,18}(\.[0-9]{1,18})*([-+][^\u0000-\u001F\u007F]*)?$";
/// The name or the value of a label.
pub const LABEL: &str = "^[A-Za-z0-9._/-]{1,63}$";
/// A cursor in the audit log.
pub const SEQUENCE: &str = "^(0|[1-9][0-9]{0,17})$";

const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// Loopback, link-local, multicast, tunnel and unspecified addresses are never behind a gateway.
const REACHABLE_V4: &str =
    r"(?!0\.|127\.|169\.254\.|22[4-9]\.|23[0-9]\.|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.)";
const REACHABLE_V6: &str = "(?!::$|::1$|::/|fe[89ab]|ff|fd70:6f73:740[0-3])";

/// An IPv4 address that a resource may have.
pub fn resource_v4() -> String {
    format!(r"^{REACHABLE_V4}{OCTET}(\.{OCTET}){{3}}$")
}

/// An IPv6 address that a resource may have; beside the format `ipv6`.
pub fn resource_v6() -> String {
    format!("^{REACHABLE_V6}[0-9a-f:]+$")
}

/// Any network, host bits or not.
pub fn network_v4() -> String {
    format!(r"^{OCTET}(\.{OCTET}){{3}}/(3[0-2]|[12]?[0-9])$")
}

/// Any IPv6 network in its plain spelling.
pub fn network_v6() -> String {
    "^([0-9a-f]{1,4}:){1,7}:/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$".into()
}

/// An IPv4 network without host bits.
pub fn resource_network_v4() -> String {
    let mut pattern = format!("^{REACHABLE_V4}(");
    for whole in 0..4 {
        let (head, tail) = (format!(r"({OCTET}\.){{{whole}}}"), r"\.0".repeat(3 - whole));
        let mut parts = vec![format!("0{tail}/{}", 8 * whole)];
        for bits in 1..=7u32 {
            let step = 256 >> bits;
            let values: Vec<String> = (0..256).step_by(step).map(|value: u32| value.to_string()).collect();
            parts.push(format!("({}){tail}/{}", values.join("|"), 8 * whole + bits as usize));
        }
        if whole == 3 {
            parts.push(format!("{OCTET}/32"));
        }
        let _ = write!(pattern, "{head}({})|", parts.join("|"));
    }
    pattern.pop();
    pattern + ")$"
}

/// An IPv6 network without host bits, with its zeros at the end written as `::`.
pub fn resource_network_v6() -> String {
    const HEX: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"];
    let mut parts = Vec::new();
    for length in (16..=112).step_by(4) {
        let (whole, nibbles) = (length / 16, length % 16 / 4);
        let head = format!("([0-9a-f]{{1,4}}:){{{whole}}}");
        parts.push(match nibbles {
            0 => format!("{head}:/{length}"),
            _ => format!("{head}[1-9a-f][0-9a-f]{{{}}}{}::/{length}", nibbles - 1, "0".repeat(4 - nibbles)),
        });
        // Between two nibbles: the next one has only its upper bits.
        for bits in 1..=3 {
            let step = 16 >> bits;
            let digits: String = HEX.iter().skip(step).step_by(step).copied().collect();
            let zeros = "0".repeat(3 - nibbles);
            let more =
                if nibbles == 0 { String::new() } else { format!("[1-9a-f][0-9a-f]{{{}}}", nibbles - 1) };
            if length + bits <= 112 {
                parts.push(format!("{head}{more}[{digits}]{zeros}::/{}", length + bits));
            }
        }
    }
    format!("^{REACHABLE_V6}({})$", parts.join("|"))
}

/// Labels that all must be there, each name once.
pub fn selector() -> String {
    const WORD: &str = "[A-Za-z0-9._/-]{1,63}";
    format!(r"^(?!(.*,)?([^=,]+)=[^,]*,(.*,)?\2=){WORD}={WORD}(,{WORD}={WORD}){{0,15}}$")
}

/// Where somebody wants to go: a name or an IPv4 address, with a port or not.
pub fn destination() -> String {
    format!("^[A-Za-z0-9._-]{{1,255}}(:{PORT}(/(tcp|udp))?|/icmp)?$")
}

/// A policy file that holds nothing but comments, and one that holds something.
pub fn policy_file() -> [String; 2] {
    const COMMENT: &str = r"[ \t]*(#[^\u0000-\u001F\u007F]*)?";
    // Whether what it holds is in order no pattern can say; the lookahead tells that it is there.
    let anything = r"^(?!(?![\s\S]*\[\[ *(policy|test) *\]\]))[\s\S]*$";
    [format!(r"^({COMMENT}\r?\n)*{COMMENT}$"), anything.into()]
}

/// An exact DNS name.
pub fn dns() -> String {
    const LABEL: &str = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
    const LAST: &str = "[A-Za-z_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
    format!(r"^({LABEL}\.){{1,3}}({LABEL}\.)*{LAST}$")
}

/// A traffic filter: no port, one, or a range that does not run backwards.
pub fn filter() -> [String; 2] {
    let simple = format!("^(icmp|tcp|udp|(tcp|udp):{PORT})$");
    // Fewer digits, or the same digits up to one that is lower.
    let mut ranges = Vec::new();
    for digits in 2..=5usize {
        let low = digits - 2;
        ranges.push(format!("[1-9][0-9]{{0,{low}}}-[1-9][0-9]{{{}}}", digits - 1));
    }
    // Three groups stand before them: of what is too high, of the protocol, and of all ranges.
    let mut group = 3;
    for digits in 1..=5usize {
        for same in 0..digits {
            let rest = digits - same - 1;
            for digit in 0..9u8 {
                if same == 0 && digit == 0 {
                    continue;
                }
                let (prefix, again) = match same {
                    0 => (String::new(), String::new()),
                    _ => {
                        group += 1;
                        (format!("([1-9][0-9]{{{}}})", same - 1), format!(r"\{group}"))
                    }
                };
                ranges
                    .push(format!("{prefix}{digit}[0-9]{{{rest}}}-{again}[{}-9][0-9]{{{rest}}}", digit + 1));
            }
        }
    }
    let too_high = "(?!.*-(6553[6-9]|655[4-9]|65[6-9]|6[6-9][0-9]{3}|[7-9][0-9]{4})$)";
    [simple, format!("^{too_high}(tcp|udp):({})$", ranges.join("|"))]
}
