//! How BPF things are written in CLIF: names of helpers and maps, and what a source location means.
//!
//! A program is one CLIF function `(i64) -> i32`: pointer to `__sk_buff`, to a `TC_ACT_*` code.
//! A helper call is a direct call of [`helper_name`]; its arguments and result are `i64`.
//! A map is a `symbol_value` of a `GlobalValueData::Symbol` named [`map_name`]; of [`Map::Tables`] it is a pointer to bytes that
//! only loads may use.

use cranelift_codegen::ir::UserExternalName;

/// Namespace of helper functions; the index is the helper's number in `enum bpf_func_id` of the kernel's uapi.
pub const HELPERS: u32 = 0;
/// Namespace of maps; the index is a [`Map`].
pub const MAPS: u32 = 1;

/// The maps of a policy object, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Map {
    /// [`seg_artifact::maps::ADDRESSES4`].
    Addresses4 = 0,
    /// [`seg_artifact::maps::ADDRESSES6`].
    Addresses6 = 1,
    /// [`seg_artifact::maps::IDENTS`].
    Idents = 2,
    /// [`seg_artifact::maps::RECORDS`].
    Records = 3,
    /// [`seg_artifact::maps::LOCAL`].
    Local = 4,
    /// [`seg_artifact::maps::CONNTRACK`].
    Conntrack = 5,
    /// [`seg_artifact::maps::COUNTERS`].
    Counters = 6,
    /// The section [`seg_artifact::object::TABLES`] of the object. Its `symbol_value` points to its first byte.
    Tables = 7,
}

impl Map {
    /// All maps by index.
    pub const ALL: [Self; 8] = [
        Self::Addresses4,
        Self::Addresses6,
        Self::Idents,
        Self::Records,
        Self::Local,
        Self::Conntrack,
        Self::Counters,
        Self::Tables,
    ];
}

/// The helpers programs call, by their number in `enum bpf_func_id`.
pub mod helper {
    /// `void *bpf_map_lookup_elem(map, key)`.
    pub const MAP_LOOKUP_ELEM: u32 = 1;
    /// `long bpf_map_update_elem(map, key, value, flags)`.
    pub const MAP_UPDATE_ELEM: u32 = 2;
    /// `long bpf_skb_pull_data(skb, len)`.
    pub const SKB_PULL_DATA: u32 = 39;
    /// `u64 bpf_ktime_get_coarse_ns(void)`, Linux 5.11.
    pub const KTIME_GET_COARSE_NS: u32 = 160;
}

/// The CLIF name of a helper.
pub fn helper_name(number: u32) -> UserExternalName {
    UserExternalName::new(HELPERS, number)
}

/// The CLIF name of a map.
pub fn map_name(map: Map) -> UserExternalName {
    UserExternalName::new(MAPS, map as u32)
}

/// What the bits of a CLIF source location say.
///
/// Below [`seg_artifact::maps::RULE_COUNTERS`] a [`Stage`]; from there on rule number plus that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// Reading headers.
    Parse = 1,
    /// Finding out who the ends are.
    Identify = 2,
    /// Comparisons on the way to a rule.
    Decide = 3,
    /// Connection state.
    Track = 4,
    /// Counting.
    Count = 5,
}

impl Stage {
    /// What line information says of its instructions.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Parse => "read the headers",
            Self::Identify => "find out who the ends are",
            Self::Decide => "decide",
            Self::Track => "connection state",
            Self::Count => "count",
        }
    }
}
