-- accept: the record, the place in `waiting`, the deadline, the first event and the message in its queue, or a refusal; all
-- or nothing, but that a message which Redis refuses is left to the janitor.
local model, tenant = args.model, args.tenant
local timeout_ms, retention_ms = tonumber(args.timeout_ms), tonumber(args.retention_ms)

-- The answer to an earlier try of the same call was lost on its way.
if redis.call('EXISTS', task) == 1 then return {'accepted', id, model} end
local known = sent_before()
if known then return known end
local conversation = args.conversation
if conversation then
  local turn = open_turn(conversation)
  if turn then return {'conversation_busy', turn} end
  if args.built_on and redis.call('HGET', conversation, 'version') ~= args.built_on then
    return {'conversation_changed'}
  end
  local full = no_room_for(conversation, tenant)
  if full then return full end
end
local waiting = key('waiting', model)
local length = redis.call('ZCARD', waiting)
if length >= tonumber(args.max_waiting) then return {'queue_full', length} end
local active = redis.call('SCARD', key('tenant', tenant))
if active >= tonumber(args.max_tenant_tasks) then return {'tenant_full', active} end
local arrived = clock_ms() -- several come in one millisecond
local now = math.floor(arrived)
-- Nothing outlives its deadline by more than the retention and an hour, even if no janitor ever runs again.
local orphan_ms = timeout_ms + retention_ms + 3600000
local refusal, left = charge(tenant, now, orphan_ms)
if refusal then return {refusal[1], refusal[2], refusal[3], refusal[4], unpack(left)} end

local flow = args.priority .. ':' .. tenant
redis.call('HSET', task, 'v', args.version, 'model', model, 'priority', args.priority, 'tenant', tenant,
  'request', args.request, 'cancel_on_disconnect', args.cancel_on_disconnect,
  'state', 'waiting', 'wire', 'PENDING', 'attempt', 0, 'tokens', 0, 'crashes', 0, 'losses', 0, 'accepted_at', now,
  'deadline', now + timeout_ms, 'context', args.context, 'note', args.note,
  'prompt_expected', args.prompt_expected, 'answer_expected', args.answer_expected, 'flow', flow)
redis.call('ZADD', waiting, arrived, id)
enter_flow(model, flow, arrived, args.weight)
redis.call('ZADD', prefix .. 'deadlines', now + timeout_ms, id)
redis.call('SADD', key('tenant', tenant), id)
local home = args.hints and home_of(model, args.hints)
if args.hints then redis.call('HSET', task, 'hints', args.hints) end
if home then
  redis.call('HSET', task, 'home', home)
  redis.call('ZADD', home_key(model, home), arrived, id)
  redis.call('PEXPIRE', home_key(model, home), orphan_ms)
end
-- Where others wait, its place is told to those who read its stream (`places`): here each task would pay for it, by as many
-- commands as there are flows.
append(0, 1, 'status', state_event('status', 'PENDING', (length == 0 and ',"position":1' or '') .. args.guard))
redis.call('PEXPIRE', task, orphan_ms)
redis.call('PEXPIRE', events, orphan_ms)
if conversation then
  redis.call('HSET', task, 'conversation', conversation)
  if args.conversation_ms then redis.call('HSET', task, 'conversation_ms', args.conversation_ms) end
  redis.call('HSET', conversation, 'turn', id)
  redis.call('HSETNX', conversation, 'created', now)
  -- It does not expire under its open turn.
  keep_conversation(conversation, tenant, math.max(orphan_ms, redis.call('PTTL', conversation)))
end
if args.idempotency then
  redis.call('HSET', args.idempotency, 'task', id, 'fingerprint', args.fingerprint)
  redis.call('PEXPIRE', args.idempotency, orphan_ms)
  redis.call('HSET', task, 'idempotency', args.idempotency) -- they expire together
end
if args.resent then redis.call('SET', args.resent, id, 'PX', args.resent_ms) end
if args.unstored then redis.call('HSET', task, 'unstored', args.resent or '') end
-- Where there is no card yet, nobody says how many slots a worker has.
local sent_to = home and args.slots and has_room(model, home, tonumber(args.slots)) and home
if args.message then
  redis.pcall('LPUSH', prefix .. (sent_to and args.own_queues .. sent_to or args.queue), args.message)
end
return {'accepted', id, model, sent_to or '', unpack(left)}
