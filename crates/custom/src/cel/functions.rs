//! The functions that expressions may call: CEL's own, its extensions for texts, lists, sets and optionals, and Kubernetes' libraries.

use super::{
    Budget, Fault,
    library::{amounts, convert, lists, net, optional, strings, time},
    types::{Decl, Kind, MAX_REQUEST},
    value::Val,
};
use std::sync::Arc;

/// What a function makes of its arguments, the receiver first.
pub(super) type Run = for<'a> fn(&[Val<'a>], &mut Budget) -> Result<Val<'a>, Fault>;

/// One overload of one function.
///
/// Types are letters: `b`ool, `i`nt, `u`int, `d`ouble, `s`tring, b`y`tes, `t`imestamp, du`r`ation, `L`ist, `M`ap, `O`ptional, `T`ype,
/// `Q`uantity, U`R`L as `U`, `P` for IP addresses, `C` for networks, `F`ormat, `*` anything. In results also `=` the first argument's own type,
/// `E` its items, `S` a list of texts, `V` what an optional holds, `W` an optional of the first argument, `q` URL queries, `f` an optional
/// format, `e` an optional list of texts.
pub(super) struct Row {
    /// Name, after the namespace and a dot if there is one.
    pub name: &'static str,
    /// Called on its first argument.
    pub member: bool,
    /// Types of the arguments.
    pub args: &'static str,
    /// Type of the result.
    pub result: char,
    /// What a call costs.
    pub cost: Cost,
    /// The function.
    pub run: Run,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name, self.args)
    }
}

/// What a call costs, as upstream charges it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cost {
    /// One step.
    One,
    /// Reading the first argument.
    Scan,
    /// Reading the first argument and writing as much.
    Twice,
    /// Reading the second argument.
    Prefix,
    /// Looking for the second argument in the first.
    Find,
    /// Matching the first argument by the second.
    Regex,
    /// Looking at each item of the first argument.
    Each,
    /// Looking at each item of the first argument for each of the second.
    Cross,
    /// Writing each item of the first argument, and the second between them.
    Join,
}

impl Cost {
    /// Steps for arguments of these sizes; items of the first are of size `item`.
    pub fn steps(self, sizes: &[u64], item: u64) -> u64 {
        let size = |i: usize| sizes.get(i).copied().unwrap_or(0);
        match self {
            Self::One => 1,
            Self::Scan => size(0).div_ceil(10),
            Self::Twice => size(0).saturating_mul(2).div_ceil(10),
            Self::Prefix => size(1).div_ceil(10),
            Self::Find => size(0).div_ceil(10).saturating_mul(size(1).div_ceil(10)),
            Self::Regex => size(0).saturating_add(1).div_ceil(10).saturating_mul(size(1).div_ceil(4)),
            Self::Each => size(0).saturating_mul(1 + item.div_ceil(10)),
            Self::Cross => size(0).saturating_mul(size(1)),
            Self::Join => size(0).saturating_mul(item.saturating_add(size(1))).div_ceil(10),
        }
    }
}

/// True if a value of this type can be such an argument.
pub(super) fn accepts(letter: char, decl: &Decl) -> bool {
    match letter {
        '*' => true,
        _ if matches!(decl.kind, Kind::Dyn) => true,
        'b' => matches!(decl.kind, Kind::Bool),
        'i' => matches!(decl.kind, Kind::Int),
        'u' => matches!(decl.kind, Kind::Uint),
        'd' => matches!(decl.kind, Kind::Double),
        's' => matches!(decl.kind, Kind::String),
        'y' => matches!(decl.kind, Kind::Bytes),
        't' => matches!(decl.kind, Kind::Timestamp),
        'r' => matches!(decl.kind, Kind::Duration),
        'L' => matches!(decl.kind, Kind::List(..)),
        'M' => matches!(decl.kind, Kind::Map(..)),
        'O' => matches!(decl.kind, Kind::Optional(_)),
        'Q' => matches!(decl.kind, Kind::Quantity),
        'U' => matches!(decl.kind, Kind::Url),
        'P' => matches!(decl.kind, Kind::Ip),
        'C' => matches!(decl.kind, Kind::Cidr),
        'F' => matches!(decl.kind, Kind::Format),
        _ => false,
    }
}

/// True if the value can be such an argument.
pub(super) fn takes(letter: char, value: &Val<'_>) -> bool {
    match letter {
        '*' => true,
        'b' => matches!(value, Val::Bool(_)),
        'i' => matches!(value, Val::Int(_)),
        'u' => matches!(value, Val::Uint(_)),
        'd' => matches!(value, Val::Double(_)),
        's' => matches!(value, Val::String(_)),
        'y' => matches!(value, Val::Bytes(_)),
        't' => matches!(value, Val::Timestamp(_)),
        'r' => matches!(value, Val::Duration(_)),
        'L' => matches!(value, Val::List(_) | Val::JsonList(..)),
        'M' => matches!(value, Val::Map(_) | Val::JsonMap(..)),
        'O' => matches!(value, Val::Optional(_)),
        'Q' => matches!(value, Val::Quantity(_)),
        'U' => matches!(value, Val::Url(_)),
        'P' => matches!(value, Val::Ip(_)),
        'C' => matches!(value, Val::Cidr(..)),
        'F' => matches!(value, Val::Format(_)),
        _ => false,
    }
}

/// The type of the result for arguments of these types.
pub(super) fn result(row: &Row, args: &[Decl]) -> Decl {
    let first = args.first();
    let size = |i: usize| args.get(i).map_or(0, |decl| decl.max);
    let items = || match first.map(|decl| &decl.kind) {
        Some(Kind::List(items, _)) => (**items).clone(),
        _ => Decl::any(),
    };
    let texts = |max: u64| Decl::list(Decl::text(max), max);
    match row.result {
        'b' => Decl::new(Kind::Bool),
        'i' => Decl::new(Kind::Int),
        'u' => Decl::new(Kind::Uint),
        'd' => Decl::new(Kind::Double),
        'y' => Decl { kind: Kind::Bytes, max: size(0) },
        't' => Decl::new(Kind::Timestamp),
        'r' => Decl::new(Kind::Duration),
        'Q' => Decl::new(Kind::Quantity),
        'U' => Decl { kind: Kind::Url, max: size(0) },
        'P' => Decl::new(Kind::Ip),
        'C' => Decl::new(Kind::Cidr),
        'T' => Decl::new(Kind::Type),
        's' => Decl::text(text_size(row, args)),
        'S' => texts(size(0)),
        '=' => first.cloned().unwrap_or_else(Decl::any),
        'E' => items(),
        'V' => match first.map(|decl| &decl.kind) {
            Some(Kind::Optional(inner)) => (**inner).clone(),
            _ => Decl::any(),
        },
        'W' => Decl::new(Kind::Optional(Arc::new(first.cloned().unwrap_or_else(Decl::any)))),
        'O' => Decl::new(Kind::Optional(Arc::new(Decl::any()))),
        'q' => Decl { kind: Kind::Map(Arc::new(Decl::text(size(0))), Arc::new(texts(size(0)))), max: size(0) },
        'f' => Decl::new(Kind::Optional(Arc::new(Decl::new(Kind::Format)))),
        'e' => Decl::new(Kind::Optional(Arc::new(Decl::list(Decl::text(128), 4)))),
        _ => Decl::any(),
    }
}

/// Most bytes of a text that a function makes.
fn text_size(row: &Row, args: &[Decl]) -> u64 {
    let size = |i: usize| args.get(i).map_or(0, |decl| decl.max);
    let scalar = |decl: &Decl| !matches!(decl.kind, Kind::String | Kind::Bytes | Kind::Dyn);
    let size = match (row.name, args.first()) {
        ("string", Some(first)) if scalar(first) => 64,
        ("replace", _) => size(0).saturating_add(1).saturating_mul(size(2)).saturating_add(size(0)),
        ("join", Some(Decl { kind: Kind::List(items, _), max })) => max.saturating_mul(items.max.saturating_add(size(1))),
        ("format", _) => size(0).saturating_add(size(1).saturating_mul(64)),
        ("charAt", _) => 4,
        ("strings.quote", _) => size(0).saturating_mul(2).saturating_add(2),
        _ => size(0),
    };
    size.min(MAX_REQUEST)
}

macro_rules! rows {
    ($($kind:ident $name:literal ($args:literal) $result:literal $cost:ident $run:expr;)*) => {
        &[$(Row { name: $name, member: rows!(@ $kind), args: $args, result: $result, cost: Cost::$cost, run: $run }),*]
    };
    (@ on) => { true };
    (@ of) => { false };
}

/// Every overload: `on` a receiver, or `of` its arguments.
pub(super) static ROWS: &[Row] = rows! {
    of "size" ("s") 'i' Scan strings::size; on "size" ("s") 'i' Scan strings::size;
    of "size" ("y") 'i' One lists::size; on "size" ("y") 'i' One lists::size;
    of "size" ("L") 'i' One lists::size; on "size" ("L") 'i' One lists::size;
    of "size" ("M") 'i' One lists::size; on "size" ("M") 'i' One lists::size;
    on "contains" ("ss") 'b' Find strings::contains;
    on "startsWith" ("ss") 'b' Prefix strings::starts_with;
    on "endsWith" ("ss") 'b' Prefix strings::ends_with;
    on "matches" ("ss") 'b' Regex strings::matches; of "matches" ("ss") 'b' Regex strings::matches;
    on "find" ("ss") 's' Regex strings::find;
    on "findAll" ("ss") 'S' Regex strings::find_all; on "findAll" ("ssi") 'S' Regex strings::find_all;
    on "charAt" ("si") 's' Scan strings::char_at;
    on "indexOf" ("ss") 'i' Scan strings::index_of; on "indexOf" ("ssi") 'i' Scan strings::index_of;
    on "lastIndexOf" ("ss") 'i' Scan strings::last_index_of; on "lastIndexOf" ("ssi") 'i' Scan strings::last_index_of;
    on "lowerAscii" ("s") '=' Scan strings::lower_ascii; on "upperAscii" ("s") '=' Scan strings::upper_ascii;
    on "trim" ("s") '=' Scan strings::trim; on "reverse" ("s") '=' Scan strings::reverse;
    on "replace" ("sss") 's' Twice strings::replace; on "replace" ("sssi") 's' Twice strings::replace;
    on "split" ("ss") 'S' Twice strings::split; on "split" ("ssi") 'S' Twice strings::split;
    on "substring" ("si") '=' Scan strings::substring; on "substring" ("sii") '=' Scan strings::substring;
    on "join" ("L") 's' Join strings::join; on "join" ("Ls") 's' Join strings::join;
    on "format" ("sL") 's' Scan strings::format;
    of "strings.quote" ("s") 's' Scan strings::quote;
    on "isSorted" ("L") 'b' Each lists::is_sorted; on "sum" ("L") 'E' Each lists::sum;
    on "min" ("L") 'E' Each lists::min; on "max" ("L") 'E' Each lists::max;
    on "indexOf" ("L*") 'i' Each lists::index_of; on "lastIndexOf" ("L*") 'i' Each lists::last_index_of;
    of "sets.contains" ("LL") 'b' Cross lists::sets_contains; of "sets.equivalent" ("LL") 'b' Cross lists::sets_equivalent;
    of "sets.intersects" ("LL") 'b' Cross lists::sets_intersects;
    of "type" ("*") 'T' One convert::type_of; of "dyn" ("*") '*' One convert::dynamic;
    of "bool" ("b") 'b' One convert::boolean; of "bool" ("s") 'b' One convert::boolean;
    of "int" ("i") 'i' One convert::int; of "int" ("u") 'i' One convert::int; of "int" ("d") 'i' One convert::int;
    of "int" ("s") 'i' Scan convert::int; of "int" ("t") 'i' One convert::int;
    of "uint" ("i") 'u' One convert::uint; of "uint" ("u") 'u' One convert::uint; of "uint" ("d") 'u' One convert::uint;
    of "uint" ("s") 'u' Scan convert::uint;
    of "double" ("i") 'd' One convert::double; of "double" ("u") 'd' One convert::double; of "double" ("d") 'd' One convert::double;
    of "double" ("s") 'd' Scan convert::double;
    of "string" ("s") 's' One convert::string; of "string" ("b") 's' One convert::string; of "string" ("i") 's' One convert::string;
    of "string" ("u") 's' One convert::string; of "string" ("d") 's' One convert::string; of "string" ("y") 's' Scan convert::string;
    of "string" ("t") 's' One convert::string; of "string" ("r") 's' One convert::string; of "string" ("P") 's' One convert::string;
    of "string" ("C") 's' One convert::string;
    of "bytes" ("s") 'y' Scan convert::bytes; of "bytes" ("y") 'y' One convert::bytes;
    of "timestamp" ("s") 't' Scan time::timestamp; of "timestamp" ("t") 't' One time::timestamp; of "timestamp" ("i") 't' One time::timestamp;
    of "duration" ("s") 'r' Scan time::duration; of "duration" ("r") 'r' One time::duration;
    on "getFullYear" ("t") 'i' One time::full_year; on "getFullYear" ("ts") 'i' One time::full_year;
    on "getMonth" ("t") 'i' One time::month; on "getMonth" ("ts") 'i' One time::month;
    on "getDayOfYear" ("t") 'i' One time::day_of_year; on "getDayOfYear" ("ts") 'i' One time::day_of_year;
    on "getDayOfMonth" ("t") 'i' One time::day_of_month; on "getDayOfMonth" ("ts") 'i' One time::day_of_month;
    on "getDate" ("t") 'i' One time::date; on "getDate" ("ts") 'i' One time::date;
    on "getDayOfWeek" ("t") 'i' One time::day_of_week; on "getDayOfWeek" ("ts") 'i' One time::day_of_week;
    on "getHours" ("t") 'i' One time::hours; on "getHours" ("ts") 'i' One time::hours; on "getHours" ("r") 'i' One time::hours;
    on "getMinutes" ("t") 'i' One time::minutes; on "getMinutes" ("ts") 'i' One time::minutes; on "getMinutes" ("r") 'i' One time::minutes;
    on "getSeconds" ("t") 'i' One time::seconds; on "getSeconds" ("ts") 'i' One time::seconds; on "getSeconds" ("r") 'i' One time::seconds;
    on "getMilliseconds" ("t") 'i' One time::milliseconds; on "getMilliseconds" ("ts") 'i' One time::milliseconds;
    on "getMilliseconds" ("r") 'i' One time::milliseconds;
    of "optional.none" ("") 'O' One optional::none; of "optional.of" ("*") 'W' One optional::of;
    of "optional.ofNonZeroValue" ("*") 'W' One optional::of_non_zero;
    on "hasValue" ("O") 'b' One optional::has_value; on "value" ("O") 'V' One optional::value;
    of "quantity" ("s") 'Q' Scan amounts::quantity; of "isQuantity" ("s") 'b' Scan amounts::is_quantity;
    on "sign" ("Q") 'i' One amounts::sign; on "isInteger" ("Q") 'b' One amounts::is_integer; on "asInteger" ("Q") 'i' One amounts::as_integer;
    on "asApproximateFloat" ("Q") 'd' One amounts::as_float; on "add" ("QQ") 'Q' One amounts::add; on "add" ("Qi") 'Q' One amounts::add;
    on "sub" ("QQ") 'Q' One amounts::sub; on "sub" ("Qi") 'Q' One amounts::sub;
    on "isGreaterThan" ("QQ") 'b' One amounts::is_greater; on "isLessThan" ("QQ") 'b' One amounts::is_less;
    on "compareTo" ("QQ") 'i' One amounts::compare_to;
    of "url" ("s") 'U' Scan net::url; of "isURL" ("s") 'b' Scan net::is_url;
    on "getScheme" ("U") 's' One net::scheme; on "getHost" ("U") 's' One net::host; on "getHostname" ("U") 's' One net::hostname;
    on "getPort" ("U") 's' One net::port; on "getEscapedPath" ("U") 's' One net::escaped_path; on "getQuery" ("U") 'q' One net::query;
    of "ip" ("s") 'P' Scan net::ip; of "isIP" ("s") 'b' Scan net::is_ip; of "ip.isCanonical" ("s") 'b' Twice net::is_canonical;
    on "family" ("P") 'i' One net::family; on "isUnspecified" ("P") 'b' One net::is_unspecified; on "isLoopback" ("P") 'b' One net::is_loopback;
    on "isLinkLocalMulticast" ("P") 'b' One net::is_link_local_multicast; on "isLinkLocalUnicast" ("P") 'b' One net::is_link_local_unicast;
    on "isGlobalUnicast" ("P") 'b' One net::is_global_unicast;
    of "cidr" ("s") 'C' Scan net::cidr; of "isCIDR" ("s") 'b' Scan net::is_cidr;
    on "containsIP" ("CP") 'b' One net::contains_ip; on "containsIP" ("Cs") 'b' Prefix net::contains_ip;
    on "containsCIDR" ("CC") 'b' One net::contains_cidr; on "containsCIDR" ("Cs") 'b' Prefix net::contains_cidr;
    on "ip" ("C") 'P' One net::cidr_ip; on "masked" ("C") 'C' One net::masked; on "prefixLength" ("C") 'i' One net::prefix_length;
    of "format.named" ("s") 'f' One net::format_named; on "validate" ("Fs") 'e' Prefix net::format_validate;
    of "format.dns1123Label" ("") 'F' One |_, _| Ok(Val::Format("dns1123Label"));
    of "format.dns1123Subdomain" ("") 'F' One |_, _| Ok(Val::Format("dns1123Subdomain"));
    of "format.dns1035Label" ("") 'F' One |_, _| Ok(Val::Format("dns1035Label"));
    of "format.qualifiedName" ("") 'F' One |_, _| Ok(Val::Format("qualifiedName"));
    of "format.labelValue" ("") 'F' One |_, _| Ok(Val::Format("labelValue"));
    of "format.uri" ("") 'F' One |_, _| Ok(Val::Format("uri")); of "format.uuid" ("") 'F' One |_, _| Ok(Val::Format("uuid"));
    of "format.byte" ("") 'F' One |_, _| Ok(Val::Format("byte")); of "format.date" ("") 'F' One |_, _| Ok(Val::Format("date"));
    of "format.datetime" ("") 'F' One |_, _| Ok(Val::Format("datetime"));
};

/// Names before the dot of functions that have one.
pub(super) const NAMESPACES: [&str; 6] = ["cel", "format", "ip", "optional", "sets", "strings"];
