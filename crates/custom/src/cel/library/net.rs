//! Addresses, networks, URLs, and the named forms of texts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use api::names::{self, Format};

use super::{
    super::{
        Budget, Fault,
        value::{Key, Val},
    },
    made_list, text,
};
use crate::schema::is_format;

type Answer<'a> = Result<Val<'a>, Fault>;

fn url_of<'v>(args: &'v [Val<'_>]) -> Result<&'v url::Url, Fault> {
    if let Some(Val::Url(url)) = args.first() { Ok(url) } else { Err(Fault::Overload) }
}

fn ip_of(args: &[Val<'_>], i: usize) -> Result<IpAddr, Fault> {
    match args.get(i) {
        Some(Val::Ip(ip)) => Ok(*ip),
        Some(Val::String(text)) => parse_ip(text.as_str()),
        _ => Err(Fault::Overload),
    }
}

fn cidr_of(args: &[Val<'_>], i: usize) -> Result<(IpAddr, u8), Fault> {
    match args.get(i) {
        Some(Val::Cidr(ip, bits)) => Ok((*ip, *bits)),
        Some(Val::String(text)) => parse_cidr(text.as_str()),
        _ => Err(Fault::Overload),
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, Fault> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(Fault::other(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(Fault::other(format!("IP Address {text:?} parse error during conversion from string"))),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), Fault> {
    let parsed = text.split_once('/').filter(|_| is_format("cidr", text));
    let parsed = parsed.and_then(|(ip, bits)| Some((parse_ip(ip).ok()?, bits.parse().ok()?)));
    parsed.ok_or_else(|| Fault::other(format!("network address parse error during conversion from string: {text:?}")))
}

/// A URL, absolute or a path.
pub fn url<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let text = text(args, 0)?;
    parse_url(text)
        .map(|url| Val::Url(Arc::new(url)))
        .ok_or_else(|| Fault::other(format!("URL parse error during conversion from string: {text:?}")))
}

/// Paths are kept below a scheme that no URL has.
const PATH_ONLY: &str = "path-only";

fn parse_url(text: &str) -> Option<url::Url> {
    if text.starts_with('/') { url::Url::parse(&format!("{PATH_ONLY}://{text}")).ok() } else { url::Url::parse(text).ok() }
}

/// True if the text is a URL.
pub fn is_url<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(parse_url(text(args, 0)?).is_some()))
}

/// `https` of `https://a:80/b`.
pub fn scheme<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::text(Some(url_of(args)?.scheme()).filter(|scheme| *scheme != PATH_ONLY).unwrap_or_default()))
}

/// `a:80` of `https://a:80/b`.
pub fn host<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let url = url_of(args)?;
    let host = url.host_str().unwrap_or_default();
    Ok(Val::text(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))))
}

/// `a` of `https://a:80/b`.
pub fn hostname<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::text(url_of(args)?.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')))
}

/// `80` of `https://a:80/b`.
pub fn port<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::text(url_of(args)?.port().map(|port| port.to_string()).unwrap_or_default()))
}

/// `/b` of `https://a:80/b`.
pub fn escaped_path<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::text(url_of(args)?.path()))
}

/// The values of each name after the question mark.
pub fn query<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url_of(args)?.query_pairs() {
        map.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    let entries =
        map.into_iter().map(|(name, values)| Ok((Key::String(name.into()), made_list(values.iter().map(String::as_str))?)));
    Ok(Val::Map(Arc::new(entries.collect::<Result<_, Fault>>()?)))
}

/// An address.
pub fn ip<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    parse_ip(text(args, 0)?).map(Val::Ip)
}

/// True if the text is an address.
pub fn is_ip<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(parse_ip(text(args, 0)?).is_ok()))
}

/// True if the text is the address as it is shown.
pub fn is_canonical<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let text = text(args, 0)?;
    Ok(Val::Bool(parse_ip(text)?.to_string() == text))
}

/// 4 or 6.
pub fn family<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Int(if ip_of(args, 0)?.is_ipv4() { 4 } else { 6 }))
}

/// `0.0.0.0` or `::`.
pub fn is_unspecified<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(ip_of(args, 0)?.is_unspecified()))
}

/// `127.0.0.0/8` or `::1`.
pub fn is_loopback<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(ip_of(args, 0)?.is_loopback()))
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// `224.0.0.0/24` or `ff02::/16` and the like.
pub fn is_link_local_multicast<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(match ip_of(args, 0)? {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }))
}

/// `169.254.0.0/16` or `fe80::/10`.
pub fn is_link_local_unicast<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(link_local(ip_of(args, 0)?)))
}

/// An address that one machine may have and others may reach.
pub fn is_global_unicast<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let ip = ip_of(args, 0)?;
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    Ok(Val::Bool(!broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local(ip)))
}

/// A network.
pub fn cidr<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    parse_cidr(text(args, 0)?).map(|(ip, bits)| Val::Cidr(ip, bits))
}

/// True if the text is a network.
pub fn is_cidr<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(parse_cidr(text(args, 0)?).is_ok()))
}

/// The address with nothing after the first bits.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)).into(),
    }
}

fn holds((network, bits): (IpAddr, u8), ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && mask(network, bits) == mask(ip, bits)
}

/// True if the address is in the network.
pub fn contains_ip<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(holds(cidr_of(args, 0)?, ip_of(args, 1)?)))
}

/// True if the second network is in the first.
pub fn contains_cidr<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (outer, (ip, bits)) = (cidr_of(args, 0)?, cidr_of(args, 1)?);
    Ok(Val::Bool(bits >= outer.1 && holds(outer, ip)))
}

/// The address before the slash.
pub fn cidr_ip<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Ip(cidr_of(args, 0)?.0))
}

/// The network by its first address.
pub fn masked<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (ip, bits) = cidr_of(args, 0)?;
    Ok(Val::Cidr(mask(ip, bits), bits))
}

/// The number after the slash.
pub fn prefix_length<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Int(i64::from(cidr_of(args, 0)?.1)))
}

/// Forms by name.
const FORMATS: [&str; 10] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// A form, if there is one of this name.
pub fn format_named<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let name = text(args, 0)?;
    Ok(Val::optional(FORMATS.into_iter().find(|known| *known == name).map(Val::Format)))
}

/// What of a text is not of the form; nothing if all is well.
pub fn format_validate<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (Some(Val::Format(name)), text) = (args.first(), text(args, 1)?) else { return Err(Fault::Overload) };
    let named = match *name {
        "dns1123Label" => Some(Format::DnsLabel),
        "dns1123Subdomain" => Some(Format::DnsSubdomain),
        "dns1035Label" => Some(Format::Dns1035Label),
        "qualifiedName" => Some(Format::QualifiedName),
        "labelValue" => Some(Format::LabelValue),
        _ => None,
    };
    let problem = match named {
        Some(form) => names::check(form, text).err(),
        None => (!is_format(name, text)).then(|| format!("must be of form {name}")),
    };
    Ok(Val::optional(problem.map(|problem| Val::list(vec![Val::text(problem)]))))
}
