//! Every diagnostic code, declared once: its name, its summary, and its page of `lang/diagnostics`.

use crate::diagnostic::Code;

macro_rules! codes {
    ($($name:ident = $code:literal: $summary:literal;)*) => {
        $(#[doc = $summary] pub const $name: Code = Code($code);)*
        /// All codes with one line on each, by code.
        pub const ALL: &[(Code, &str)] = &[$(($name, $summary)),*];

        /// The page on a code, in Markdown: what it means and why, with a bad and a good example.
        pub fn page(code: Code) -> Option<&'static str> {
            match code.0 {
                $($code => Some(include_str!(concat!("../diagnostics/", $code, ".md"))),)*
                _ => None,
            }
        }
    };
}

codes! {
    UNKNOWN_CHARACTER = "E0101": "a character that starts no token";
    EXPECTED = "E0102": "something else was expected here";
    UNCLOSED_STRING = "E0103": "a string without its closing quote";
    HOST_BITS = "E0104": "a prefix with host bits set";
    BAD_ADDRESS = "E0105": "not an address or prefix";
    BAD_PORT = "E0106": "a port, ICMP type or ICMP code that is too large";
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
    REFINES_NOTHING = "E0303": "a predicate without a service to refine";
    NOT_LOCAL = "E0304": "a predicate about processes of this machine on another end";
    EMPTY_SET = "E0306": "a set that nothing is in";
    MIXED_FAMILIES = "E0307": "a range from IPv4 to IPv6";
    NO_PORTS = "E0308": "a protocol that has no such ports, types or codes";
    TEMPLATE_ARGUMENTS = "E0309": "the arguments of a template are not those it takes";
    NO_LABEL = "E0310": "`same` needs a label dimension";
    WORKLOAD_IN_RULE = "E0311": "a workload named in a rule";
    NOT_A_NET = "E0312": "a net made of more than addresses";
    BAD_WORKLOAD = "E0313": "a workload without addresses or with unclear labels";
    SETS_TOO_LARGE = "E0314": "sets too large to write out or to check";
    UNKNOWN_PORT = "E0315": "a port that no workload names";
    BAD_PREDICATE = "E0316": "a predicate with wrong arguments";
    CHAIN_CLAIM = "E0317": "a claim about chains that cannot be made";
    MISPLACED = "E0401": "an item that may not stand here";
    MAY_NOT = "E0402": "a tier that this file may not write";
    BLOCK_TWICE = "E0404": "two blocks of one name";
    OUTSIDE_SCOPE = "E0405": "a rule that does not touch the scope of its block";
    RECURSION = "E0406": "a template that uses itself";
    ANNOTATION = "E0407": "an unknown annotation or a wrong argument";
    WIDENS = "E0408": "an expiry that would open traffic by itself";
    REQUIRED = "E0410": "a block without an annotation that its package requires";
    CLAIM_FAILED = "E0501": "a claim that does not hold";
    ASSERT_FAILED = "E0502": "an assertion of another package that does not hold here";
    TARGET_LIMIT = "E0601": "a limit of the target exceeded";
    TARGET_CANNOT = "E0602": "a rule that no hook of the target can enforce";
    EXPIRES_SOON = "W1302": "a rule that expires within 30 days";
    EXPIRED = "W1303": "an expired rule, left out";
    UNUSED_IGNORE = "W1304": "an `@ignore` that suppresses nothing";
}

/// What to do about a finding whose place says no better.
pub fn way_out(code: Code) -> Option<&'static str> {
    Some(match code {
        BAD_DATE => "a date reads year, month, day: `2026-12-31`",
        UNKNOWN_NAME => "define it here, or import it from the module that does",
        CYCLE => "take one of these names out of what it is made of",
        UNKNOWN_BLOCK => "`by` takes the name of a guard, policy or baseline",
        NOT_ENDPOINTS => "a service stands behind `on`: `allow a -> b on tcp/443`",
        NOT_A_SERVICE => "a service is such as `tcp/443`, or a name defined by `service`",
        MIXED_FAMILIES => "write two ranges in braces",
        NO_LABEL => "`same` compares what both ends have as value of a label",
        WORKLOAD_IN_RULE => "write its labels: they hold for the next workload too",
        BLOCK_TWICE => "give it another name, or write its rules into the first",
        OUTSIDE_SCOPE => "write it into another block; `for` says what this one is about",
        _ => return None,
    })
}
