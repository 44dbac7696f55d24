//! Pages of a forge for a branch, computed from the remote's address alone; no network, no git.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::remote::{Kind, Remote};

/// In a part of a query or of a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a path whose slashes stay.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Where a person looks at a branch, and where one proposes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// The branch's page; `ADDRESS#BRANCH` where the forge is unknown; the path of a local remote.
    pub branch: String,
    /// The page that compares it with the base and offers to propose it; the path of a local remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<String>,
}

/// Links for a forge that is not known, from devo.yaml. `{web}` is the repository's page (`https://host/path`), `{base}`
/// and `{branch}` are encoded names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkTemplate {
    /// For the branch's page.
    #[serde(default)]
    pub branch: Option<String>,
    /// For the page that compares.
    #[serde(default)]
    pub compare: Option<String>,
}

enum Forge {
    GitHub,
    GitLab,
    Gitea,
    BitbucketCloud,
    BitbucketServer,
    Azure,
}

/// Computes the links. A template wins over what the host's name suggests.
pub fn links(remote: &Remote, template: Option<&LinkTemplate>, base: &str, branch: &str) -> Links {
    let Some(place) = Place::of(remote) else {
        let path = remote.shown();
        return Links { compare: Some(path.clone()), branch: path };
    };
    let forge = place.forge();
    let web = place.web(forge.as_ref());
    let (from, to) = (encoded(branch), encoded(base));
    let path_of_branch = utf8_percent_encode(branch, ENCODED_PATH).to_string();
    let known = match forge {
        Some(Forge::GitHub) => {
            Some((format!("{web}/tree/{path_of_branch}"), format!("{web}/compare/{to}...{from}?expand=1")))
        }
        Some(Forge::GitLab) => {
            let (source, target) = ("merge_request%5Bsource_branch%5D", "merge_request%5Btarget_branch%5D");
            let compare = format!("{web}/-/merge_requests/new?{source}={from}&{target}={to}");
            Some((format!("{web}/-/tree/{path_of_branch}"), compare))
        }
        Some(Forge::Gitea) => {
            Some((format!("{web}/src/branch/{path_of_branch}"), format!("{web}/compare/{to}...{from}")))
        }
        Some(Forge::BitbucketCloud) => Some((
            format!("{web}/branch/{path_of_branch}"),
            format!("{web}/pull-requests/new?source={from}&dest={to}&t=1"),
        )),
        Some(Forge::BitbucketServer) => Some((
            format!("{web}/browse?at=refs%2Fheads%2F{from}"),
            format!("{web}/pull-requests?create&targetBranch={to}&sourceBranch={from}"),
        )),
        Some(Forge::Azure) => Some((
            format!("{web}?version=GB{from}"),
            format!("{web}/pullrequestcreate?sourceRef={from}&targetRef={to}"),
        )),
        None => None,
    };
    let fill = |text: &String| fill(text, &[("{web}", &web), ("{base}", &to), ("{branch}", &from)]);
    let given = template.map(|template| (template.branch.as_ref().map(fill), template.compare.as_ref().map(fill)));
    let (given_branch, given_compare) = given.unwrap_or_default();
    let (known_branch, known_compare) = known.unzip();
    Links {
        branch: given_branch.or(known_branch).unwrap_or_else(|| format!("{}#{branch}", remote.shown())),
        compare: given_compare.or(known_compare),
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Puts the values in, each once and from left to right: a value that looks like a name stays what it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    'next: while !rest.is_empty() {
        for (name, value) in values {
            if let Some(after) = rest.strip_prefix(name) {
                out.push_str(value);
                rest = after;
                continue 'next;
            }
        }
        let next = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
        out.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    out
}

/// A repository on a host.
struct Place {
    scheme: &'static str,
    /// With its port, if the address is a page's as well.
    host: String,
    /// Without slashes around it and without `.git`.
    path: String,
    ssh: bool,
}

impl Place {
    fn of(remote: &Remote) -> Option<Self> {
        let (scheme, host, path, ssh) = match remote.kind() {
            Kind::Local(_) => return None,
            Kind::Web { scheme, host, path } => (*scheme, host.clone(), path, false),
            // The port is ssh's, not that of the pages.
            Kind::Ssh { host, path, .. } => ("https", host.clone(), path, true),
        };
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/').to_owned();
        // Hosts that only speak git for another one.
        let host = match host.as_str() {
            "ssh.github.com" | "www.github.com" => "github.com".to_owned(),
            "altssh.gitlab.com" => "gitlab.com".to_owned(),
            "altssh.bitbucket.org" | "www.bitbucket.org" => "bitbucket.org".to_owned(),
            _ => host,
        };
        Some(Self { scheme, host, path, ssh })
    }

    fn forge(&self) -> Option<Forge> {
        let name = self.host.split(':').next().unwrap_or_default();
        let is = |known: &str| name == known || name.ends_with(&format!(".{known}"));
        if is("dev.azure.com") || is("visualstudio.com") {
            Some(Forge::Azure)
        } else if name == "bitbucket.org" {
            Some(Forge::BitbucketCloud)
        } else if is("codeberg.org") || ["gitea", "forgejo"].iter().any(|word| name.contains(word)) {
            Some(Forge::Gitea)
        } else if name.contains("gitlab") {
            Some(Forge::GitLab)
        } else if name.contains("github") {
            Some(Forge::GitHub)
        } else if name.contains("bitbucket") || name.contains("stash") || (!self.ssh && self.path.starts_with("scm/")) {
            Some(Forge::BitbucketServer)
        } else if !self.ssh && self.path.contains("/_git/") {
            // Azure DevOps on a server of one's own.
            Some(Forge::Azure)
        } else {
            None
        }
    }

    /// The repository's page.
    fn web(&self, forge: Option<&Forge>) -> String {
        let (scheme, host, path) = (self.scheme, &self.host, &self.path);
        match forge {
            Some(Forge::BitbucketServer) => {
                // Over https the address is `…/scm/PROJECT/repo`, maybe below a folder; over ssh `PROJECT/repo`.
                let (folder, path) = match path.strip_prefix("scm/") {
                    Some(path) => ("", path),
                    None => path.split_once("/scm/").unwrap_or(("", path)),
                };
                let folder = if folder.is_empty() { String::new() } else { format!("/{folder}") };
                let (project, repo) = path.split_once('/').unwrap_or(("", path));
                match project.strip_prefix('~') {
                    Some(user) => format!("{scheme}://{host}{folder}/users/{user}/repos/{repo}"),
                    None => format!("{scheme}://{host}{folder}/projects/{project}/repos/{repo}"),
                }
            }
            Some(Forge::Azure) if self.ssh => {
                // `v3/organisation/project/repo`, on either of two hosts.
                let path = path.strip_prefix("v3/").unwrap_or(path);
                let parts: Vec<&str> = path.splitn(3, '/').collect();
                match parts.as_slice() {
                    [organisation, project, repo] => {
                        format!("https://dev.azure.com/{organisation}/{project}/_git/{repo}")
                    }
                    _ => format!("https://dev.azure.com/{path}"),
                }
            }
            _ => format!("{scheme}://{host}/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Links {
        let remote = Remote::parse(url, std::path::Path::new("/")).unwrap();
        links(&remote, None, "development", "task/1-a")
    }

    #[test]
    fn every_forge_has_its_pages() {
        let github = "https://github.com/acme/shop";
        let gitlab = "https://gitlab.acme.com/team/sub/shop";
        let server = "https://bitbucket.acme.com/projects/TEAM/repos/shop";
        let azure = "https://dev.azure.com/acme/My%20Project/_git/shop";
        let (hub, lab) = ("compare/development...task%2F1-a?expand=1", "merge_request%5Bsource_branch%5D=task%2F1-a");
        for (url, branch, compare) in [
            ("git@github.com:acme/shop.git", format!("{github}/tree/task/1-a"), format!("{github}/{hub}")),
            ("https://me:tok@GitHub.com/acme/shop.git/", format!("{github}/tree/task/1-a"), format!("{github}/{hub}")),
            (
                "ssh://git@ssh.github.com:443/acme/shop.git",
                format!("{github}/tree/task/1-a"),
                format!("{github}/{hub}"),
            ),
            (
                "https://github.acme.com:8443/acme/shop",
                "https://github.acme.com:8443/acme/shop/tree/task/1-a".into(),
                format!("https://github.acme.com:8443/acme/shop/{hub}"),
            ),
            (
                "ssh://git@gitlab.acme.com:2222/team/sub/shop.git",
                format!("{gitlab}/-/tree/task/1-a"),
                format!("{gitlab}/-/merge_requests/new?{lab}&merge_request%5Btarget_branch%5D=development"),
            ),
            (
                "https://codeberg.org/acme/shop.git",
                "https://codeberg.org/acme/shop/src/branch/task/1-a".into(),
                "https://codeberg.org/acme/shop/compare/development...task%2F1-a".into(),
            ),
            ("http://localhost:3000/acme/shop", "http://localhost:3000/acme/shop#task/1-a".into(), String::new()),
            (
                "git@forgejo.acme.com:acme/shop.git",
                "https://forgejo.acme.com/acme/shop/src/branch/task/1-a".into(),
                "https://forgejo.acme.com/acme/shop/compare/development...task%2F1-a".into(),
            ),
            (
                "git@bitbucket.org:acme/shop.git",
                "https://bitbucket.org/acme/shop/branch/task/1-a".into(),
                "https://bitbucket.org/acme/shop/pull-requests/new?source=task%2F1-a&dest=development&t=1".into(),
            ),
            (
                "ssh://git@bitbucket.acme.com:7999/TEAM/shop.git",
                format!("{server}/browse?at=refs%2Fheads%2Ftask%2F1-a"),
                format!("{server}/pull-requests?create&targetBranch=development&sourceBranch=task%2F1-a"),
            ),
            (
                "https://bitbucket.acme.com/git/scm/~ana/shop.git",
                "https://bitbucket.acme.com/git/users/ana/repos/shop/browse?at=refs%2Fheads%2Ftask%2F1-a".into(),
                "https://bitbucket.acme.com/git/users/ana/repos/shop/pull-requests?create&targetBranch=development\
                 &sourceBranch=task%2F1-a"
                    .into(),
            ),
            (
                "https://acme@dev.azure.com/acme/My%20Project/_git/shop",
                format!("{azure}?version=GBtask%2F1-a"),
                format!("{azure}/pullrequestcreate?sourceRef=task%2F1-a&targetRef=development"),
            ),
            (
                "git@ssh.dev.azure.com:v3/acme/My%20Project/shop",
                format!("{azure}?version=GBtask%2F1-a"),
                format!("{azure}/pullrequestcreate?sourceRef=task%2F1-a&targetRef=development"),
            ),
            (
                "acme@vs-ssh.visualstudio.com:v3/acme/My%20Project/shop",
                format!("{azure}?version=GBtask%2F1-a"),
                format!("{azure}/pullrequestcreate?sourceRef=task%2F1-a&targetRef=development"),
            ),
            (
                "https://acme.visualstudio.com/My%20Project/_git/shop",
                "https://acme.visualstudio.com/My%20Project/_git/shop?version=GBtask%2F1-a".into(),
                "https://acme.visualstudio.com/My%20Project/_git/shop/pullrequestcreate?sourceRef=task%2F1-a\
                 &targetRef=development"
                    .into(),
            ),
            (
                "https://tfs.acme.com/tfs/All/Shop/_git/shop",
                "https://tfs.acme.com/tfs/All/Shop/_git/shop?version=GBtask%2F1-a".into(),
                "https://tfs.acme.com/tfs/All/Shop/_git/shop/pullrequestcreate?sourceRef=task%2F1-a&targetRef=development"
                    .into(),
            ),
            (
                "https://code.acme.com/scm/TEAM/shop.git",
                "https://code.acme.com/projects/TEAM/repos/shop/browse?at=refs%2Fheads%2Ftask%2F1-a".into(),
                "https://code.acme.com/projects/TEAM/repos/shop/pull-requests?create&targetBranch=development\
                 &sourceBranch=task%2F1-a"
                    .into(),
            ),
            (
                "ssh://git@gitea.com/acme/shop",
                "https://gitea.com/acme/shop/src/branch/task/1-a".into(),
                "https://gitea.com/acme/shop/compare/development...task%2F1-a".into(),
            ),
            (
                "https://gitlab.com/team/shop.git",
                "https://gitlab.com/team/shop/-/tree/task/1-a".into(),
                format!(
                    "https://gitlab.com/team/shop/-/merge_requests/new?{lab}&merge_request%5Btarget_branch%5D=development"
                ),
            ),
            (
                "https://ana@bitbucket.org/acme/shop.git",
                "https://bitbucket.org/acme/shop/branch/task/1-a".into(),
                "https://bitbucket.org/acme/shop/pull-requests/new?source=task%2F1-a&dest=development&t=1".into(),
            ),
            ("git@git.acme.com:acme/shop.git", "git@git.acme.com:acme/shop.git#task/1-a".into(), String::new()),
            ("/srv/git/shop.git", "/srv/git/shop.git".into(), "/srv/git/shop.git".into()),
            ("https://notgithub.evil/acme/shop?x=1#y", "https://notgithub.evil/acme/shop/tree/task/1-a".into(), {
                format!("https://notgithub.evil/acme/shop/{hub}")
            }),
        ] {
            let links = of(url);
            assert_eq!((links.branch, links.compare.unwrap_or_default()), (branch, compare), "{url}");
        }
    }

    #[test]
    fn odd_names_are_encoded() {
        let remote = Remote::parse("https://github.com/a/b", std::path::Path::new("/")).unwrap();
        let links = links(&remote, None, "rel&x=1#ñ", "task/a?b");
        assert_eq!(links.branch, "https://github.com/a/b/tree/task/a%3Fb");
        assert_eq!(
            links.compare.unwrap(),
            "https://github.com/a/b/compare/rel%26x%3D1%23%C3%B1...task%2Fa%3Fb?expand=1"
        );
    }

    #[test]
    fn a_template_serves_the_rest() {
        let remote = Remote::parse("git@git.acme.com:acme/{branch}.git", std::path::Path::new("/")).unwrap();
        let template = LinkTemplate { branch: None, compare: Some("{web}/new?{base}..{branch}&{other}".into()) };
        let links = links(&remote, Some(&template), "main", "task/1");
        assert_eq!(links.branch, "git@git.acme.com:acme/{branch}.git#task/1");
        assert_eq!(links.compare.unwrap(), "https://git.acme.com/acme/{branch}/new?main..task%2F1&{other}");
    }
}
