//! Typical conditions are evaluated without an allocation. A program of its own, for it counts what the allocator is asked.
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe; this one counts and leaves the rest to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bartizan_cel::{Activation, Environment, Found, Timestamp, Value, check};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory that was allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer is from `alloc` above, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Given {
    claims: serde_json::Map<String, serde_json::Value>,
    audiences: Vec<String>,
}

impl Activation for Given {
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a> {
        match (path, key) {
            ("source.namespace", None) => "payments".into(),
            ("source.ip", None) => "10.66.0.7".into(),
            ("source.labels", Some("tier")) => "batch".into(),
            ("request.method", None) => "POST".into(),
            ("request.path", None) => "/v1/entries/7".into(),
            ("request.headers", Some("x-a")) => "b".into(),
            ("auth.claims", Some(name)) => self.claims.get(name).into(),
            ("auth.audiences", None) => Value::list(&self.audiences).into(),
            ("now", None) => Timestamp::from_seconds(1_767_225_600).into(),
            _ => Found::Absent,
        }
    }
}

#[test]
fn typical_conditions_allocate_nothing() {
    let claims = serde_json::json!({
        "clearance_level": "SECRET", "level": 3, "realm_access": { "roles": ["user", "admin"] },
    });
    let given = Given {
        claims: claims.as_object().cloned().unwrap(),
        audiences: vec!["reports".to_owned(), "ledger".to_owned()],
    };
    for (when, expected) in [
        (
            r#"now.getHours("UTC") < 6 && source.labels["tier"] == "batch""#,
            Ok(true),
        ),
        (
            r#"source.namespace == "payments" && request.method == "POST" && request.path.startsWith("/v1/")"#,
            Ok(true),
        ),
        (r#"source.ip.inBlock("10.66.0.0/16")"#, Ok(true)),
        (
            r#""x-a" in request.headers && request.headers["x-a"] != "c""#,
            Ok(true),
        ),
        ("has(request.headers.cookie) || auth.claims.level >= 3", Ok(true)),
        (r#""admin" in auth.claims.realm_access.roles"#, Ok(true)),
        (
            r#""ledger" in auth.audiences && auth.audiences[0] == "reports""#,
            Ok(true),
        ),
        (r#"request.path.matches("^/v1/entries/[0-9]+$")"#, Ok(true)),
        (r#"request.headers["x-b"] == "c""#, Err("no such key".to_owned())),
    ] {
        let program = check(when, Environment::access_rule()).unwrap();
        // A pattern's memory is made when it is first used.
        program.evaluate(&given).ok();
        let before = ALLOCATIONS.with(Cell::get);
        let result = program.evaluate(&given);
        let allocations = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(result.map_err(|error| error.to_string()), expected, "{when}");
        assert_eq!(allocations, 0, "{when}");
    }
}
