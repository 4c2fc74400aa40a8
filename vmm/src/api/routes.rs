//! What can be called: method, path, and in which states of the sandbox. `resources/openapi.yaml` has the same list; a test
//! compares them.

use super::http::{Response, decoded};
use super::state::State;
use super::state::when::{ALIVE, ALWAYS, BEFORE, PAUSED, RUNNING, STARTED};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below says what each is")]
pub enum Call {
    Instance,
    Schema,
    GetConfig,
    PutConfig,
    Get(Section),
    Put(Section),
    Start,
    Pause,
    Resume,
    Shutdown,
    Wait,
    Stats,
    Metrics,
    Logs,
    GetBalloon,
    PutBalloon,
    GetDiskLimits,
    PutDiskLimits,
    GetRandomLimits,
    PutRandomLimits,
    GetLogLevels,
    PutLogLevels,
    Containers,
    Create,
    Remove,
    StartContainer,
    Exec,
    Signal,
    Resize,
    WaitProcess,
}

/// A part of the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Config`")]
pub enum Section {
    Machine,
    Boot,
    Image,
    Container,
    Jail,
}

/// A line of the table.
pub struct Route {
    /// `GET`, `PUT`, …
    pub method: &'static str,
    /// With `{}` around what differs.
    pub path: &'static str,
    /// What it does.
    pub call: Call,
    /// When it can be done.
    pub states: &'static [State],
}

const fn route(method: &'static str, path: &'static str, call: Call, states: &'static [State]) -> Route {
    Route { method, path, call, states }
}

/// All there are.
pub const ROUTES: &[Route] = &[
    route("GET", "/", Call::Instance, ALWAYS),
    route("GET", "/openapi.yaml", Call::Schema, ALWAYS),
    route("GET", "/config", Call::GetConfig, ALWAYS),
    route("PUT", "/config", Call::PutConfig, BEFORE),
    route("GET", "/config/machine", Call::Get(Section::Machine), ALWAYS),
    route("PUT", "/config/machine", Call::Put(Section::Machine), BEFORE),
    route("GET", "/config/boot", Call::Get(Section::Boot), ALWAYS),
    route("PUT", "/config/boot", Call::Put(Section::Boot), BEFORE),
    route("GET", "/config/image", Call::Get(Section::Image), ALWAYS),
    route("PUT", "/config/image", Call::Put(Section::Image), BEFORE),
    route("GET", "/config/container", Call::Get(Section::Container), ALWAYS),
    route("PUT", "/config/container", Call::Put(Section::Container), BEFORE),
    route("GET", "/config/jail", Call::Get(Section::Jail), ALWAYS),
    route("PUT", "/config/jail", Call::Put(Section::Jail), BEFORE),
    route("POST", "/start", Call::Start, BEFORE),
    route("POST", "/pause", Call::Pause, RUNNING),
    route("POST", "/resume", Call::Resume, PAUSED),
    route("POST", "/shutdown", Call::Shutdown, ALIVE),
    route("GET", "/wait", Call::Wait, STARTED),
    route("GET", "/stats", Call::Stats, ALIVE),
    route("GET", "/metrics", Call::Metrics, ALIVE),
    route("GET", "/logs", Call::Logs, ALWAYS),
    route("GET", "/balloon", Call::GetBalloon, ALIVE),
    route("PUT", "/balloon", Call::PutBalloon, RUNNING),
    route("GET", "/disks/{disk}/limits", Call::GetDiskLimits, ALIVE),
    route("PUT", "/disks/{disk}/limits", Call::PutDiskLimits, ALIVE),
    route("GET", "/random/limits", Call::GetRandomLimits, ALIVE),
    route("PUT", "/random/limits", Call::PutRandomLimits, ALIVE),
    route("GET", "/log-levels", Call::GetLogLevels, ALWAYS),
    route("PUT", "/log-levels", Call::PutLogLevels, RUNNING),
    route("GET", "/containers", Call::Containers, RUNNING),
    route("PUT", "/containers/{container}", Call::Create, RUNNING),
    route("DELETE", "/containers/{container}", Call::Remove, RUNNING),
    route("POST", "/containers/{container}/start", Call::StartContainer, RUNNING),
    route("POST", "/containers/{container}/exec", Call::Exec, RUNNING),
    route("POST", "/containers/{container}/processes/{process}/signal", Call::Signal, RUNNING),
    route("POST", "/containers/{container}/processes/{process}/resize", Call::Resize, RUNNING),
    route("GET", "/containers/{container}/processes/{process}/wait", Call::WaitProcess, ALIVE),
];

/// What stands where the path has braces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Name of a container.
    pub container: String,
    /// Number of a process.
    pub process: u32,
    /// Number of a disk.
    pub disk: u32,
}

/// Finds what a request asks for. An error is the answer to what is not there, or not with this method.
pub fn find(method: &str, path: &str) -> Result<(&'static Route, Parameters), Response> {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(parameters) = matches(route.path, path) else { continue };
        if route.method == method {
            return Ok((route, parameters?));
        }
        others.push(route.method);
    }
    if others.is_empty() {
        return Err(Response::fault(404, "there is no such path"));
    }
    let allowed = others.join(", ");
    let mut refused = Response::fault(405, format!("this path has {allowed}"));
    refused.header = Some(("Allow", allowed));
    Err(refused)
}

/// The parameters, if the path is of this form.
fn matches(form: &str, path: &str) -> Option<Result<Parameters, Response>> {
    let (forms, parts) = (form.split('/'), path.split('/'));
    if forms.clone().count() != parts.clone().count() {
        return None;
    }
    let mut parameters = Parameters::default();
    let mut wrong = None;
    for (form, part) in forms.zip(parts) {
        match form {
            "{container}" => match decoded(part) {
                Some(name) if !name.is_empty() => parameters.container = name,
                _ => wrong = Some("this cannot be the name of a container"),
            },
            "{process}" => match number(part) {
                Some(number) => parameters.process = number,
                None => wrong = Some("the number of a process is a whole number"),
            },
            "{disk}" => match number(part) {
                Some(number) => parameters.disk = number,
                None => wrong = Some("the number of a disk is a whole number, of the first 0"),
            },
            _ if form == part => {}
            _ => return None,
        }
    }
    Some(wrong.map_or(Ok(parameters), |why| Err(Response::fault(400, why))))
}

fn number(part: &str) -> Option<u32> {
    part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere_or_are_refused() {
        let (route, parameters) = find("POST", "/containers/a%2eb/processes/7/signal").unwrap();
        assert_eq!((route.call, parameters.container.as_str(), parameters.process), (Call::Signal, "a.b", 7));
        assert_eq!(find("GET", "/").unwrap().0.call, Call::Instance);
        let status = |method, path| find(method, path).err().map(|answer| answer.status);
        assert_eq!(status("GET", "/nowhere"), Some(404));
        assert_eq!(status("GET", ""), Some(404));
        assert_eq!(status("GET", "/config/"), Some(404));
        assert_eq!(status("POST", "/containers//exec"), Some(400));
        assert_eq!(status("POST", "/containers/%/exec"), Some(400));
        assert_eq!(status("GET", "/containers/a/processes/-1/wait"), Some(400));
        assert_eq!(status("GET", "/containers/a/processes/+1/wait"), Some(400));
        assert_eq!(status("GET", "/containers/a/processes/99999999999/wait"), Some(400));
        let Err(refused) = find("PATCH", "/config") else { panic!() };
        assert_eq!((refused.status, refused.header), (405, Some(("Allow", "GET, PUT".into()))));
    }

    #[test]
    fn no_line_hides_another() {
        for (n, route) in ROUTES.iter().enumerate() {
            let path =
                route.path.replace("{container}", "c").replace("{process}", "1").replace("{disk}", "0");
            let found = find(route.method, &path).unwrap().0;
            assert_eq!(found.call, route.call, "line {n}");
        }
    }
}
