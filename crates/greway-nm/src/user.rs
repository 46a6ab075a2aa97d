//! Items of a profile's `[user]` setting as a device handler sees them: in its environment.

/// What the names of such variables begin with.
const PREFIX: &str = "CONNECTION_USER_";

/// The item of `[user]` behind the name of an environment variable; `None` for other variables and for names
/// that NetworkManager does not make.
///
/// A lower case letter became upper case, an upper case one `_X`, a digit stayed, `.` became `__`, anything else
/// `_` and three octal digits (NetworkManager 1.52 src/nm-dispatcher/nm-dispatcher-utils.c
/// `_dispatcher_user_key_to_env`).
pub fn decode_environment(variable: &str) -> Option<String> {
    let mut rest = variable.strip_prefix(PREFIX)?.as_bytes();
    let mut name = Vec::new();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = match first {
            b'A'..=b'Z' => first.to_ascii_lowercase(),
            b'0'..=b'9' => first,
            b'_' => match *rest {
                [b'_', ref after @ ..] => {
                    rest = after;
                    b'.'
                }
                [letter @ b'A'..=b'Z', ref after @ ..] => {
                    rest = after;
                    letter
                }
                [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref after @ ..] => {
                    rest = after;
                    (a - b'0') * 64 + (b - b'0') * 8 + (c - b'0')
                }
                _ => return None,
            },
            _ => return None,
        };
        name.push(byte);
    }
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_networkmanager_makes() {
        let decoded = |variable: &str| decode_environment(variable).unwrap();
        assert_eq!(decoded("CONNECTION_USER_GREWAY__REMOTE"), "greway.remote");
        assert_eq!(decoded("CONNECTION_USER_GREWAY__PATH_055MTU_055DISCOVERY"), "greway.path-mtu-discovery");
        assert_eq!(decoded("CONNECTION_USER_A__B9_C_137"), "a.b9C_");
    }

    #[test]
    fn other_variables_are_none_of_ours() {
        let others = [
            "CONNECTION_UUID",
            "CONNECTION_USER_",
            "CONNECTION_USER_greway",
            "CONNECTION_USER_A_",
            "CONNECTION_USER_A_9",
            "CONNECTION_USER_A_777",
            "CONNECTION_USER_A_x",
        ];
        for other in others {
            assert_eq!(decode_environment(other), None, "{other}");
        }
    }
}
