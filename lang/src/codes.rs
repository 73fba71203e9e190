//! Every diagnostic code, declared once.

use crate::diagnostic::Code;

macro_rules! codes {
    ($($name:ident = $code:literal: $summary:literal;)*) => {
        $(#[doc = $summary] pub const $name: Code = Code($code);)*
        /// All codes with one line on each, by code.
        pub const ALL: &[(Code, &str)] = &[$(($name, $summary)),*];
    };
}

codes! {
    UNKNOWN_CHARACTER = "E0101": "a character that starts no token";
    EXPECTED = "E0102": "something else was expected here";
    UNCLOSED_STRING = "E0103": "a string without its closing quote";
    HOST_BITS = "E0104": "a prefix with host bits set";
    BAD_ADDRESS = "E0105": "not an address or prefix";
    BAD_PORT = "E0106": "a port or ICMP type that is too large";
    BACKWARDS = "E0107": "a range that runs backwards";
    BAD_DATE = "E0108": "not a date of the calendar";
    SERVICE_ORDER = "E0109": "a service written the other way round";
    FOREIGN_KEYWORD = "E0110": "a keyword of another system";
    NEEDS_BRACES = "E0111": "several things without braces";
    INVISIBLE = "E0112": "an invisible, bidirectional or mixed-script character";
    TOO_DEEP = "E0113": "nested too deeply";
    TOO_LARGE = "E0114": "a source file that is too large";
    UNKNOWN_NAME = "E0201": "a name that is not defined here";
    DEFINED_TWICE = "E0202": "a name defined twice";
    CYCLE = "E0203": "a definition through itself";
    UNKNOWN_MODULE = "E0204": "a module that does not exist";
    NOT_IN_MODULE = "E0205": "a name that is not in its module";
    UNKNOWN_LABEL = "E0206": "a label dimension that is not declared here";
    UNKNOWN_VALUE = "E0207": "a value that a closed label does not have";
    UNKNOWN_BLOCK = "E0208": "`by` names no block";
    NOT_ENDPOINTS = "E0301": "endpoints were expected";
    NOT_A_SERVICE = "E0302": "a service was expected";
    EMPTY_SET = "E0306": "a set that nothing is in";
    MIXED_FAMILIES = "E0307": "a range from IPv4 to IPv6";
    NO_PORTS = "E0308": "a protocol that has no such ports or types";
    NO_LABEL = "E0310": "`same` needs a label dimension";
    WORKLOAD_IN_RULE = "E0311": "a workload named in a rule";
    NOT_A_NET = "E0312": "a net made of more than addresses";
    BAD_WORKLOAD = "E0313": "a workload without addresses or with unclear labels";
    SETS_TOO_LARGE = "E0314": "sets too large to write out or to check";
    MISPLACED = "E0401": "an item that may not stand here";
    BLOCK_TWICE = "E0404": "two blocks of one name";
    OUTSIDE_SCOPE = "E0405": "a rule that does not touch the scope of its block";
    ANNOTATION = "E0407": "an unknown annotation or a wrong argument";
    CLAIM_FAILED = "E0501": "a claim that does not hold";
    NOT_YET = "E0600": "a construct this edition reads but gives no meaning yet";
    TARGET_LIMIT = "E0601": "a limit of the target exceeded";
}
