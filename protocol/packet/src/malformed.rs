//! Why a packet is not taken.

/// Why bytes are not a packet that we take. The names are counters: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum Malformed {
    /// Shorter than its headers or than its own length field says.
    Truncated,
    /// The version is neither 4 nor 6.
    Version,
    /// IPv4 header length below 20 bytes (RFC 791, section 3.1).
    HeaderLength,
    /// The total length does not even hold the header.
    TotalLength,
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
    /// The IPv4 options do not parse.
    Options,
    /// An IPv4 source route: it would lead past the checked destination (RFC 7126, section 4.3).
    SourceRoute,
    /// A fragment, the first one too.
    Fragment,
    /// An IPv6 extension header, which we do not carry.
    ExtensionHeader,
    /// The TCP header is cut short.
    TcpTruncated,
    /// The TCP data offset is below 5 or leads past the end.
    TcpOffset,
    /// TCP flags that no stack sends: none at all, or SYN together with FIN or RST.
    TcpFlags,
    /// A port that must not be zero.
    PortZero,
    /// The UDP header is cut short.
    UdpTruncated,
    /// The UDP length is not that of the IP payload.
    UdpLength,
    /// UDP over IPv6 without a checksum (RFC 8200, section 8.1).
    UdpChecksum,
    /// The ICMP header is cut short.
    IcmpTruncated,
    /// ICMP for the other IP version.
    IcmpVersion,
    /// Not an ICMP error, so nothing is quoted.
    NotAnError,
    /// The quoted packet is shorter than its IP header and 8 bytes.
    QuoteTruncated,
    /// The quoted packet is not a packet that we would have carried.
    QuoteMalformed,
}

impl Malformed {
    /// The name of the counter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "ip_version",
            Self::HeaderLength => "ip_header_length",
            Self::TotalLength => "ip_total_length",
            Self::HeaderChecksum => "ip_header_checksum",
            Self::Options => "ip_options",
            Self::SourceRoute => "source_route",
            Self::Fragment => "fragment",
            Self::ExtensionHeader => "extension_header",
            Self::TcpTruncated => "tcp_truncated",
            Self::TcpOffset => "tcp_offset",
            Self::TcpFlags => "tcp_flags",
            Self::PortZero => "port_zero",
            Self::UdpTruncated => "udp_truncated",
            Self::UdpLength => "udp_length",
            Self::UdpChecksum => "udp_checksum_missing",
            Self::IcmpTruncated => "icmp_truncated",
            Self::IcmpVersion => "icmp_version",
            Self::NotAnError => "icmp_not_an_error",
            Self::QuoteTruncated => "icmp_quote_truncated",
            Self::QuoteMalformed => "icmp_quote_malformed",
        }
    }
}
