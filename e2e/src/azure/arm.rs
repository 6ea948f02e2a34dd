//! The front of ARM: who calls, may they, may they now, and which resource is meant. It holds no rule about any resource.

use std::time::Duration;

use serde_json::Value;

use super::answer::{Answer, Body, Context, Delivery, Request};
use super::cloud::Cloud;
use super::command::{Class, Effect, Fault, RetryAfter, When};
use super::error::{ArmError, put};
use super::limits::refusal_of;
use super::operation::{Fate, Provider, Work};
use super::path::{ArmPath, Kind, key};
use super::resource::Group;

type Headers = Vec<(String, String)>;

impl Cloud {
    /// Answers a request to ARM or to the authority, which share a host here.
    pub fn arm(&mut self, request: &Request) -> Answer {
        if request.path.ends_with("/oauth2/v2.0/token") && request.method == "POST" {
            return self.authorize(request);
        }
        if let Some(answer) = self.authorization(request) {
            return answer;
        }
        let Some(path) = ArmPath::parse(&request.path) else {
            let message = format!("No HTTP resource was found that matches the request URI '{}'.", request.path);
            return self.render(Err(ArmError::gateway(404, "InvalidResourceType", message)), Vec::new());
        };
        let class = path.class(request.method != "GET");
        let (by, answer) = match self.authenticate(request) {
            Ok(by) => {
                let answer = self.admit(request, &path, class, &by);
                (by, answer)
            }
            Err(error) => ("nobody".to_owned(), self.render(Err(error), Vec::new())),
        };
        let status = if answer.delivery == Delivery::Cut { 0 } else { answer.status };
        self.journal.called(self.now, class, request, by, status, answer.code.clone());
        answer
    }

    /// The next fault for a call, if one waits.
    pub fn strike(&mut self, class: Class, request: &Request) -> Option<Effect> {
        let write = request.method != "GET";
        let target = request.target.to_lowercase();
        let fits = |fault: &Fault| {
            fault.class.is_none_or(|wanted| wanted == class)
                && fault.path.as_ref().is_none_or(|part| target.contains(&part.to_lowercase()))
                && only_for(&fault.effect).is_none_or(|for_writes| for_writes == write)
        };
        let index = self.faults.iter().position(fits)?;
        let fault = self.faults.get_mut(index)?;
        fault.times = fault.times.saturating_sub(1);
        let (effect, spent) = (fault.effect.clone(), fault.times == 0);
        if spent {
            self.faults.remove(index);
        }
        Some(effect)
    }

    /// Faults, limits and permissions, in the order in which Azure would notice; then the call itself.
    fn admit(&mut self, request: &Request, path: &ArmPath, class: Class, by: &str) -> Answer {
        let effect = self.strike(class, request);
        let mut context = context(request, path, by);
        if matches!(effect, Some(Effect::Cut { when: When::Before })) {
            return Answer::silent(Delivery::Cut);
        }
        if let Some(effect) = &effect {
            bend(effect, &mut context);
        }
        if let Some(error) = effect.as_ref().and_then(|effect| refusal(effect, request, path)) {
            return self.render(Err(error), Vec::new());
        }
        let limited = self.limits.take(path, &request.method, by, self.now, self.settings.limit_percent);
        let headers = match limited {
            Ok(headers) => headers,
            Err((error, headers)) => return self.render(Err(error), headers),
        };
        let result = self.permit(path, request, by).and_then(|()| self.dispatch(path, request, &context));
        let answer = self.render(result, headers);
        match effect {
            Some(effect) => after(&effect, answer, request, self),
            None => answer,
        }
    }

    fn permit(&self, path: &ArmPath, request: &Request, by: &str) -> Result<(), ArmError> {
        if request.query("api-version").is_none() {
            let message = "The api-version query parameter (?api-version=) is required for all requests.";
            return Err(ArmError::gateway(400, "MissingApiVersionParameter", message));
        }
        if !self.subscriptions.contains(&path.subscription.to_lowercase()) {
            let message = format!("The subscription '{}' could not be found.", path.subscription);
            return Err(ArmError::gateway(404, "SubscriptionNotFound", message));
        }
        let action = path.action(&request.method);
        if !path.kind.is_poll() {
            self.check_rights(&request.method, &action, &path.full_id(), by)?;
        }
        if path.group.is_some() && path.kind != Kind::Group && !self.groups.contains_key(&key(&path.scope())) {
            return Err(ArmError::group_not_found(path.group()));
        }
        Ok(())
    }

    fn dispatch(&mut self, path: &ArmPath, request: &Request, context: &Context) -> Result<Answer, ArmError> {
        match request.method.as_str() {
            "GET" => self.read(path, request, context),
            "PUT" => self.write(path, &parse_body(request)?, context),
            "DELETE" => self.delete(path, context),
            method => Err(not_allowed(method)),
        }
    }

    fn read(&mut self, path: &ArmPath, request: &Request, context: &Context) -> Result<Answer, ArmError> {
        match path.kind {
            Kind::Group => self.get_group(path),
            Kind::GroupResult => self.poll_result(path, path.name(0), context),
            Kind::Vnets => Ok(self.list_vnets(path, context)),
            Kind::Vnet => self.get_vnet(path),
            Kind::Subnets => self.list_subnets(path, context),
            Kind::Subnet => self.get_subnet(path),
            Kind::VnetUsages => self.vnet_usages(path, context),
            Kind::CheckAddress => self.check_address(path, request.query("ipAddress")),
            Kind::Peerings => self.list_peerings(path, context),
            Kind::Peering => self.get_peering(path),
            Kind::Nics => Ok(self.list_nics(path, context)),
            Kind::Nic => self.get_nic(path, context),
            Kind::NicConfigs => self.nic_configs(path, context),
            Kind::NicConfig => self.nic_config(path),
            Kind::RegionUsages => Ok(self.region_usages(path, context)),
            Kind::NetworkOperation => self.poll(path, Provider::Network),
            Kind::NetworkOperationResult => self.poll_result(path, path.name(1), context),
            Kind::ComputeOperation if request.query("monitor").is_some() => self.poll_result(path, path.name(1), context),
            Kind::ComputeOperation => self.poll(path, Provider::Compute),
            Kind::Vms => self.list_vms(path, context),
            Kind::Vm => self.get_vm(path, context),
            Kind::VmView => self.vm_view(path),
            Kind::ScaleSets => Ok(self.list_scale_sets(path, context)),
            Kind::ScaleSet => self.get_scale_set(path),
            Kind::Instances => self.list_instances(path, context),
            Kind::Instance => self.get_instance(path, context),
            Kind::InstanceView => self.instance_view(path),
            Kind::ScaleSetNics | Kind::InstanceNics => self.list_instance_nics(path, context),
            Kind::InstanceNic => self.get_instance_nic(path, context),
            Kind::InstanceNicConfigs => self.instance_nic_configs(path, context),
            Kind::InstanceNicConfig => self.instance_nic_config(path, context),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not listed is read-only")]
    fn write(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        match path.kind {
            Kind::Group => Ok(self.put_group(path, body)),
            Kind::Vnet => self.put_vnet(path, body, context),
            Kind::Subnet => self.put_subnet(path, body, context),
            Kind::Nic => self.put_nic(path, body, context),
            Kind::Vm => self.put_vm(path, body, context),
            Kind::ScaleSet => self.put_scale_set(path, body, context),
            Kind::Instance => self.put_instance(path, body, context),
            _ => Err(not_allowed("PUT")),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not listed is read-only")]
    fn delete(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        match path.kind {
            Kind::Group => self.delete_group(path, context),
            Kind::Vnet => self.delete_vnet(path, context),
            Kind::Subnet => self.delete_subnet(path, context),
            Kind::Nic => self.delete_nic(path, context),
            Kind::Vm => self.delete_vm(path, context),
            Kind::ScaleSet => self.delete_scale_set(path, context),
            Kind::Instance => self.delete_instance(path, context),
            _ => Err(not_allowed("DELETE")),
        }
    }

    fn get_group(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        let group = self.groups.get(&key(&path.scope())).ok_or_else(|| ArmError::group_not_found(path.group()))?;
        Ok(Answer::json(200, group.view()))
    }

    fn put_group(&mut self, path: &ArmPath, body: &Value) -> Answer {
        let location = body.get("location").and_then(Value::as_str).unwrap_or(&self.location).to_owned();
        let group = Group { id: path.scope(), location };
        let view = group.view();
        let created = self.groups.insert(key(&path.scope()), group).is_none();
        Answer::json(if created { 201 } else { 200 }, view)
    }

    fn delete_group(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        self.groups.remove(&key(&path.scope())).ok_or_else(|| ArmError::group_not_found(path.group()))?;
        let operation = self.begin(context, Provider::Resources, "", Work::Nothing);
        let uri = format!(
            "{}/subscriptions/{}/operationresults/{operation}?api-version={}",
            context.base, path.subscription, context.api_version
        );
        Ok(Answer::empty(202).header("Location", uri))
    }

    fn authorize(&mut self, request: &Request) -> Answer {
        let effect = self.strike(Class::Authority, request);
        let (answer, by) = match effect {
            Some(Effect::Cut { .. }) => (Answer::silent(Delivery::Cut), String::new()),
            Some(Effect::Error { status, code, .. }) => (Answer::json(status, serde_json::json!({ "error": code })), String::new()),
            Some(Effect::Slow { millis }) => {
                let (answer, by) = self.authority(request);
                (Answer { delivery: Delivery::After(Duration::from_millis(millis)), ..answer }, by)
            }
            _ => self.authority(request),
        };
        self.journal.called(self.now, Class::Authority, request, by, answer.status, answer.code.clone());
        answer
    }

    /// The answer with the headers that every answer has.
    pub fn render(&mut self, result: Result<Answer, ArmError>, headers: Headers) -> Answer {
        let (mut answer, gateway) = match result {
            Ok(answer) => (answer, false),
            Err(error) => (self.error_answer(&error), error.gateway),
        };
        if !gateway {
            answer.headers.extend(headers);
        }
        let id = self.guid();
        answer.header("x-ms-request-id", id.clone()).header("x-ms-correlation-request-id", id)
    }

    fn error_answer(&self, error: &ArmError) -> Answer {
        let mut answer = Answer { code: Some(error.code.clone()), ..Answer::json(error.status, error.body()) };
        if error.gateway {
            answer = answer.header("x-ms-failure-cause", "gateway");
        }
        if error.status == 401 {
            answer = answer.header("WWW-Authenticate", format!("Bearer error=\"invalid_token\", error_description=\"{}\"", error.code));
        }
        match error.retry_after {
            RetryAfter::Absent => answer,
            RetryAfter::Seconds(seconds) => answer.header("Retry-After", seconds.to_string()),
            RetryAfter::Date(seconds) => answer.header("Retry-After", self.http_date(seconds)),
        }
    }

    fn http_date(&self, seconds: u64) -> String {
        let at = self.unix().saturating_add(i64::try_from(seconds).unwrap_or_default());
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        jiff::Timestamp::from_second(at).and_then(|time| printer.timestamp_to_rfc9110_string(&time)).unwrap_or_default()
    }
}

/// Changes how a call is carried out as a fault asks.
fn bend(effect: &Effect, context: &mut Context) {
    match effect {
        Effect::AsyncFailed { code } => context.fate = Fate::Fail(code.clone()),
        Effect::AsyncCanceled => context.fate = Fate::Cancel,
        Effect::AsyncPartial { fail } => context.fate = Fate::Partial(*fail),
        Effect::Ignored => context.fate = Fate::Ignore,
        Effect::Stale => context.stale = true,
        Effect::SlowOperation { millis } => context.latency = Some(Duration::from_millis(*millis)),
        Effect::Throttle { .. }
        | Effect::Down { .. }
        | Effect::Lock
        | Effect::PreconditionFailed
        | Effect::AnotherOperation
        | Effect::Error { .. }
        | Effect::Cut { .. }
        | Effect::Truncated
        | Effect::LoopedPage
        | Effect::Slow { .. } => {}
    }
}

/// Whether an effect is for writes only (`true`) or for reads only (`false`).
fn only_for(effect: &Effect) -> Option<bool> {
    match effect {
        Effect::AsyncFailed { .. }
        | Effect::AsyncCanceled
        | Effect::AsyncPartial { .. }
        | Effect::Ignored
        | Effect::PreconditionFailed
        | Effect::AnotherOperation
        | Effect::SlowOperation { .. } => Some(true),
        Effect::Stale | Effect::LoopedPage => Some(false),
        Effect::Throttle { .. }
        | Effect::Down { .. }
        | Effect::Lock
        | Effect::Error { .. }
        | Effect::Cut { .. }
        | Effect::Truncated
        | Effect::Slow { .. } => None,
    }
}

/// The error with which a fault refuses a call that then does nothing.
fn refusal(effect: &Effect, request: &Request, path: &ArmPath) -> Option<ArmError> {
    let given = request.header("if-match").unwrap_or("*");
    match effect {
        Effect::Throttle { retry_after } => Some(refusal_of(path, &request.method, *retry_after)),
        Effect::Down { retry_after } => {
            Some(ArmError::network(503, "ServiceUnavailable", "The service is unavailable.").retry_after(*retry_after))
        }
        Effect::Lock => Some(ArmError::lock("29cb5ee9-ffaf-4950-a5c5-2774b29e254a", "8d419d30-f984-425c-baa0-478d259d6890")),
        Effect::PreconditionFailed if path.kind.is_compute() => Some(ArmError::compute_precondition(given, "\"0\"")),
        Effect::PreconditionFailed => {
            Some(ArmError::network_precondition(given, "W/\"00000000-0000-0000-0000-000000000000\"", &path.full_id()))
        }
        Effect::AnotherOperation => {
            let uri = format!(
                "https://management.azure.com/subscriptions/{}/providers/Microsoft.Network/locations/westeurope/operations/5d66a0e0",
                path.subscription
            );
            Some(ArmError::another_operation(&uri))
        }
        Effect::Error { status, code, when: When::Before } => Some(ArmError::network(*status, code, "The request failed.")),
        Effect::Error { when: When::After, .. }
        | Effect::Cut { .. }
        | Effect::AsyncFailed { .. }
        | Effect::AsyncCanceled
        | Effect::AsyncPartial { .. }
        | Effect::Ignored
        | Effect::Stale
        | Effect::Truncated
        | Effect::LoopedPage
        | Effect::Slow { .. }
        | Effect::SlowOperation { .. } => None,
    }
}

/// What a fault makes of the answer to a call that was carried out.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others struck before")]
fn after(effect: &Effect, answer: Answer, request: &Request, cloud: &mut Cloud) -> Answer {
    match effect {
        Effect::Error { status, code, when: When::After } => {
            cloud.render(Err(ArmError::network(*status, code, "The request failed.")), Vec::new())
        }
        Effect::Cut { when: When::After } => Answer::silent(Delivery::Cut),
        Effect::Truncated => Answer { delivery: Delivery::Truncated, ..answer },
        Effect::Slow { millis } => Answer { delivery: Delivery::After(Duration::from_millis(*millis)), ..answer },
        Effect::LoopedPage => {
            let mut answer = answer;
            if let Body::Json(body) = &mut answer.body {
                put(body, "nextLink", Value::String(format!("{}{}", base(request), request.target)));
            }
            answer
        }
        _ => answer,
    }
}

fn context(request: &Request, path: &ArmPath, by: &str) -> Context {
    Context {
        subscription: path.subscription.clone(),
        by: by.into(),
        if_match: request.header("if-match").map(str::to_owned),
        base: base(request),
        api_version: request.query("api-version").unwrap_or_default().into(),
        filter: request.query("$filter").map(str::to_owned),
        skip: request.query("$skiptoken").and_then(|skip| skip.parse().ok()).unwrap_or_default(),
        expand: request.query("$expand").is_some_and(|expand| expand.eq_ignore_ascii_case("instanceView")),
        ..Context::default()
    }
}

fn base(request: &Request) -> String {
    format!("{}://{}", request.scheme, request.header("host").unwrap_or("management.azure.com"))
}

fn parse_body(request: &Request) -> Result<Value, ArmError> {
    let invalid = |error| {
        let message = format!("The request content was invalid and could not be deserialized: '{error}'.");
        ArmError::gateway(400, "InvalidRequestContent", message)
    };
    serde_json::from_slice(&request.body).map_err(invalid)
}

fn not_allowed(method: &str) -> ArmError {
    ArmError::compute(405, "MethodNotAllowed", format!("The requested resource does not support http method '{method}'."))
}
