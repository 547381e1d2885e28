//! Textual forms.
/// Stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    DnsLabel,
    DnsSubdomain,
    Dns1035Label,
    QualifiedName,
    LabelValue,
    Ip,
    Cidr,
    PortName,
    PortOrName,
    EnvName,
    ConfigKey,
    AbsolutePath,
    PathSegment,
    Labels,
    NonNegativeQuantity,
    RelativePath,
}
/// Stub.
pub fn check(_f: Format, _s: &str) -> Result<(), String> {
    Ok(())
}
