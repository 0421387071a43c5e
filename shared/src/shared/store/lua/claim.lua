-- claim: the next attempt for this worker, or the reason why not. With a model, at the task that is next here (`next_at`),
-- whichever task the message names that has brought a slot here: messages are as many as tasks wait, and say no more.
-- Where none waits, the message's own task tells what has become of it.
local own = id
local chosen = args.model and next_at(args.model, args.worker)
if chosen then id, task, events = chosen, key('task', chosen), key('events', chosen) end

local function claim()
  local revision = args.revision
  local context = args.context -- of this attempt's span; empty where nobody traces
  local r = redis.call('HMGET', task, 'state', 'v', 'model', 'attempt', 'revision', 'deadline', 'tokens', 'void', 'flow',
    'home', 'hints', 'prompt_expected', 'answer_expected', 'flow_cost', 'account', 'attempt_context')
  local state, model, attempt = r[1], r[3], tonumber(r[4])
  if not state then return {'missing', id} end
  if tonumber(r[2]) > tonumber(args.version) then return {'version', id} end
  if state == 'ended' then return {'ended', id} end
  if state == 'running' then return {'held', id} end
  local now = now_ms()
  if now >= tonumber(r[6]) then return {'late', id} end
  attempt = attempt + 1
  -- A model of another revision cannot go on where the last one stopped; and an answer that was refused is void.
  local restart = r[8] or (r[5] and r[5] ~= revision and tonumber(r[7]) > 0)
  if restart then redis.call('HSET', task, 'tokens', 0) end
  if r[8] then redis.call('HDEL', task, 'void') end
  redis.call('HSET', task, 'state', 'running', 'wire', 'STARTED', 'attempt', attempt, 'worker', args.worker,
    'revision', revision, 'started_at', now)
  redis.call('ZREM', key('waiting', model), id)
  if r[9] then serve_flow(model, r[9], r[12], r[13], r[14]) end
  if r[10] then redis.call('ZREM', home_key(model, r[10]), id) end
  if r[11] then note_warm(model, r[11], args.worker) end
  change_load(model, args.worker, 1)
  count_waiting(r[15], false)
  redis.call('ZADD', key('running', model), now + tonumber(args.lease_ms), id)
  show_started(model .. '@' .. args.worker)
  append(attempt, 0, 'status', state_event('status', 'STARTED',
    ',"attempt":' .. attempt .. (restart and ',"restart":true' or '')))
  -- The claimant learns which span the attempt before it had; whoever comes after it, which one this has. It began that span
  -- in the trace of the message's task: of another one it says afterwards which it is.
  local record = redis.call('HGETALL', task)
  if id ~= own then
    if r[16] then redis.call('HDEL', task, 'attempt_context') end
  elseif context ~= '' then
    redis.call('HSET', task, 'attempt_context', context)
  end
  return {'claimed', id, attempt, record, now, restart and 1 or 0}
end

local well, reply = pcall(claim)
if well then return reply end
-- A record that cannot be worked with keeps nobody behind it waiting.
if chosen then
  redis.pcall('ZREM', key('front', args.model), id)
  redis.pcall('ZREM', home_key(args.model, args.worker), id)
  local flow = redis.pcall('HGET', task, 'flow')
  if type(flow) == 'string' then redis.pcall('ZREM', flow_key(args.model, flow), id) end
end
return type(reply) == 'table' and reply or redis.error_reply(reply)
