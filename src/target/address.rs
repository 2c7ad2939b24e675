//! Where a server is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

/// The URL below which a server has `/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    base: String,
    host: String,
}

impl Address {
    pub(super) fn of(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.base)
    }

    /// On this machine, as far as its name tells.
    pub fn is_local(&self) -> bool {
        let ip = self.host.trim_start_matches('[').trim_end_matches(']');
        let loopback = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
        self.host == "localhost" || ip.parse().is_ok_and(loopback)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl FromStr for Address {
    type Err = String;

    /// With or without `/v1` at its end.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |cause: &str| format!("'{text}' {cause}; give one such as http://localhost:8000");
        let url = Url::parse(text).map_err(|e| wrong(&format!("is no URL ({e})")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is no URL of a server"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a password would stand in every report; give --api-key".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has more than an address"));
        }
        let host = url.host_str().ok_or_else(|| wrong("names no host"))?;
        let base = url.as_str().trim_end_matches('/');
        Ok(Self {
            base: base.strip_suffix("/v1").unwrap_or(base).into(),
            host: host.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_v1() {
        for (text, base, is_local) in [
            ("http://localhost:8000", "http://localhost:8000", true),
            ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000", true),
            ("http://[::1]:80/v1", "http://[::1]", true),
            (
                "https://api.example.com/x/v1",
                "https://api.example.com/x",
                false,
            ),
            ("http://10.0.0.7:8080/", "http://10.0.0.7:8080", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_local()),
                (base, is_local)
            );
        }
        let address: Address = "http://h/v1".parse().unwrap();
        assert_eq!(address.of("models"), "http://h/v1/models");
        for bad in [
            "",
            "localhost:8000",
            "8000",
            "ftp://h",
            "http://u:p@h",
            "http://h/?k=1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
