//! Conditions on claims, in CEL (Common Expression Language): the standard functions and the one
//! variable `claims`. What can't be true for anybody is refused before it is used.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::objects::Key;
use cel::{Context, Env, Program};
use serde_json::{Map, Value};

/// Bytes of an expression.
const MAX_BYTES: usize = 10_000;

/// Nesting of an expression. What evaluates it calls itself.
const MAX_DEPTH: usize = 64;

/// Loops (`exists`, `all`, `map`, `filter`) inside each other.
const MAX_LOOPS: u32 = 2;

/// Steps that the loops of one expression may take, roughly.
const MAX_STEPS: u64 = 1_000_000;

/// Stack of the thread that compiles. The parser calls itself more deeply than what comes out of it.
const COMPILER_STACK: usize = 64 << 20;

/// Functions of the standard library. Those of times and durations are not there.
const FUNCTIONS: [&str; 12] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "uint",
];

/// Names of types, which are values too.
const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Why an expression is not used.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum MatcherError {
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("it is no CEL expression: {message}")]
    Syntax { message: String },
    #[error("it is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("it has more than {MAX_LOOPS} loops inside each other")]
    TooManyLoops,
    #[error("{name:?} is not known; the one variable is `claims`")]
    Variable { name: String },
    #[error("the function {name:?} is not known")]
    Function { name: String },
    #[error("its value is never true or false")]
    NotACondition,
}

/// A condition that was found to be usable.
#[derive(Clone)]
pub(super) struct Matcher {
    source: String,
    program: Arc<Program>,
    loops: u32,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Matcher").field(&self.source).finish()
    }
}

impl Matcher {
    /// Checks an expression: syntax, names, bounds.
    pub(super) fn compile(source: &str) -> Result<Self, MatcherError> {
        if source.len() > MAX_BYTES {
            return Err(MatcherError::TooLong);
        }
        let crashed = || MatcherError::Syntax { message: "the parser cannot cope with it".to_owned() };
        let text = source.to_owned();
        let thread = std::thread::Builder::new()
            .name("cel".to_owned())
            .stack_size(COMPILER_STACK)
            .spawn(move || checked(&text))
            .map_err(|_| crashed())?;
        let (program, loops) = thread.join().map_err(|_| crashed())??;
        Ok(Self { source: source.to_owned(), program: Arc::new(program), loops })
    }

    /// True when the expression has `word` anywhere in it.
    pub(super) fn mentions(&self, word: &str) -> bool {
        self.source.contains(word)
    }

    /// True when the condition holds. One that can't be judged does not hold.
    pub(super) fn matches(&self, claims: &Claims<'_>) -> bool {
        if claims.largest().checked_pow(self.loops).is_none_or(|steps| steps > MAX_STEPS) {
            tracing::warn!(matcher = self.source, "a token has too many claims for this matcher");
            return false;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&STANDARD));
            context.add_variable_from_value("claims", claims.value());
            self.program.execute(&context)
        }));
        match outcome {
            Ok(Ok(cel::Value::Bool(holds))) => holds,
            // The error may quote claims.
            Ok(_) => false,
            Err(_) => {
                tracing::error!(matcher = self.source, "a matcher crashed; it is taken not to match");
                false
            }
        }
    }
}

/// The claims of one token, made into what expressions see when the first one asks.
pub(super) struct Claims<'a> {
    claims: &'a Map<String, Value>,
    seen: OnceCell<(cel::Value, u64)>,
}

impl<'a> Claims<'a> {
    pub(super) fn new(claims: &'a Map<String, Value>) -> Self {
        Self { claims, seen: OnceCell::new() }
    }

    fn value(&self) -> cel::Value {
        self.seen().0.clone()
    }

    /// Size of the largest collection, at least 1.
    fn largest(&self) -> u64 {
        self.seen().1
    }

    fn seen(&self) -> &(cel::Value, u64) {
        self.seen.get_or_init(|| {
            let mut largest = 1;
            let value = object(self.claims, &mut largest);
            (value, u64::try_from(largest).unwrap_or(u64::MAX))
        })
    }
}

fn object(members: &Map<String, Value>, largest: &mut usize) -> cel::Value {
    *largest = (*largest).max(members.len());
    let members: HashMap<Key, cel::Value> =
        members.iter().map(|(name, value)| (Key::from(name.as_str()), seen_by_cel(value, largest))).collect();
    cel::Value::from(members)
}

fn seen_by_cel(value: &Value, largest: &mut usize) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => cel::Value::Int(number),
            (None, Some(number)) => cel::Value::UInt(number),
            (None, None) => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(items) => {
            *largest = (*largest).max(items.len());
            cel::Value::List(Arc::new(items.iter().map(|item| seen_by_cel(item, largest)).collect()))
        }
        Value::Object(members) => object(members, largest),
    }
}

fn checked(source: &str) -> Result<(Program, u32), MatcherError> {
    let program = Program::compile(source).map_err(|errors| {
        let text = errors.to_string();
        MatcherError::Syntax { message: text.lines().next().unwrap_or_default().trim().to_owned() }
    })?;
    let mut check = Check { scope: Vec::new() };
    let loops = check.expression(program.expression(), 0)?;
    let never = match &program.expression().expr {
        Expr::Literal(literal) => !matches!(literal, LiteralValue::Boolean(_)),
        Expr::List(_) | Expr::Map(_) => true,
        _ => false,
    };
    if never {
        return Err(MatcherError::NotACondition);
    }
    Ok((program, loops))
}

/// Walks an expression with the names that are known at each place.
struct Check<'e> {
    scope: Vec<&'e str>,
}

impl<'e> Check<'e> {
    /// The number of loops inside each other.
    fn expression(&mut self, expression: &'e IdedExpr, depth: usize) -> Result<u32, MatcherError> {
        if depth > MAX_DEPTH {
            return Err(MatcherError::TooDeep);
        }
        let loops = match &expression.expr {
            Expr::Unspecified | Expr::Struct(_) => return Err(MatcherError::NotACondition),
            Expr::Literal(_) => 0,
            Expr::Ident(name) => {
                self.name(name)?;
                0
            }
            Expr::Select(select) => self.expression(&select.operand, depth + 1)?,
            Expr::List(list) => self.all(&list.elements, depth)?,
            Expr::Map(map) => {
                let mut loops = 0;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(MatcherError::NotACondition);
                    };
                    loops = loops.max(self.expression(&entry.key, depth + 1)?);
                    loops = loops.max(self.expression(&entry.value, depth + 1)?);
                }
                loops
            }
            Expr::Call(call) => {
                // Operators have names that nobody can write.
                let written = !call.func_name.contains(['_', '@']);
                if written && !FUNCTIONS.contains(&call.func_name.as_str()) && call.func_name != "type" {
                    return Err(MatcherError::Function { name: call.func_name.clone() });
                }
                let target = match &call.target {
                    Some(target) => self.expression(target, depth + 1)?,
                    None => 0,
                };
                target.max(self.all(&call.args, depth)?)
            }
            Expr::Comprehension(inner) => {
                let range = self.expression(&inner.iter_range, depth + 1)?;
                let outer = self.scope.len();
                self.scope.push(&inner.iter_var);
                self.scope.extend(inner.iter_var2.as_deref());
                self.scope.push(&inner.accu_var);
                let mut loops = 0;
                for part in [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                    loops = loops.max(self.expression(part, depth + 1)?);
                }
                self.scope.truncate(outer);
                range.max(loops + 1)
            }
        };
        if loops > MAX_LOOPS { Err(MatcherError::TooManyLoops) } else { Ok(loops) }
    }

    fn all(&mut self, expressions: &'e [IdedExpr], depth: usize) -> Result<u32, MatcherError> {
        expressions.iter().try_fold(0, |loops: u32, each| Ok(loops.max(self.expression(each, depth + 1)?)))
    }

    fn name(&self, name: &str) -> Result<(), MatcherError> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if plain == "claims" || self.scope.contains(&plain) || TYPES.contains(&plain) {
            Ok(())
        } else {
            Err(MatcherError::Variable { name: name.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests;
