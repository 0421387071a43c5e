-- Shared by every script of the ledger. ARGV[1] is the key prefix, ARGV[2] the task id; names and values of the
-- script's own arguments follow, and are in `args`. Values are text; one that was not given is nil.
-- Key names are built here and in keys.py by one rule: prefix .. kind .. ':{' .. id .. '}'.
-- The clock is Redis's own, so that replicas with skewed clocks agree on leases and deadlines.
local prefix, id = ARGV[1], ARGV[2]
local args = {}
for at = 3, #ARGV, 2 do args[ARGV[at]] = ARGV[at + 1] end
local CLOSED = 4294967295 -- last sequence number of an attempt: nothing that it still writes can follow

local function key(kind, name) return prefix .. kind .. ':{' .. name .. '}' end
local task, events = key('task', id), key('events', id)

-- In milliseconds, with their fractions.
local function clock_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

local function now_ms() return math.floor(clock_ms()) end

local function field(name) return redis.call('HGET', task, name) end

-- The task that the request at hand made when it was sent before, as {status, id, model}; nil for a new request. With an
-- idempotency key the status is `conflict` where the parameters were others then. Without one, a later try of a client
-- that sends the same bytes again joins the task that they made, unless that was in vain.
local function sent_before()
  if args.idempotency then
    local known = redis.call('HMGET', args.idempotency, 'task', 'fingerprint')
    local model = known[1] and redis.call('HGET', key('task', known[1]), 'model')
    -- A task whose record is gone is none that a client could be given.
    if model then return {known[2] == args.fingerprint and 'existing' or 'conflict', known[1], model} end
  end
  local earlier = args.joins and redis.call('GET', args.resent)
  if earlier then
    local r = redis.call('HMGET', key('task', earlier), 'wire', 'cancel', 'model')
    if r[1] and not r[2] and r[1] ~= 'FAILURE' and r[1] ~= 'REVOKED' then return {'existing', earlier, r[3]} end
  end
end

-- The id of the turn of a stored conversation that is open; nil for none. A turn is open as long as its task has not
-- ended, whatever becomes of it: no other lock could be left behind.
local function open_turn(conversation)
  local turn = redis.call('HGET', conversation, 'turn')
  local state = turn and redis.call('HGET', key('task', turn), 'state')
  return state and state ~= 'ended' and turn or nil
end

-- A refusal where the tenant may not have one more conversation beside those that it has; nil where it may. Nothing is
-- written: see `charge`.
local function no_room_for(conversation, tenant)
  local most, index = tonumber(args.max_conversations), key('conversations', tenant)
  if not most or redis.call('ZSCORE', index, conversation) then return end
  local count = redis.call('ZCOUNT', index, now_ms(), '+inf')
  if count >= most then return {'conversations_full', count} end
end

-- The conversation is kept for so long from now on, and counts until then.
local function keep_conversation(conversation, tenant, milliseconds)
  local index, now = key('conversations', tenant), now_ms()
  redis.call('PEXPIRE', conversation, milliseconds)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('ZADD', index, now + tonumber(milliseconds), conversation)
  redis.call('PEXPIRE', index, math.max(tonumber(milliseconds), redis.call('PTTL', index)))
end

local function forget_conversation(conversation, tenant)
  redis.call('ZREM', key('conversations', tenant), conversation)
  return redis.call('DEL', conversation)
end

local newest_attempt, newest_sequence -- of the task's stream, once somebody has looked

-- The id of the newest entry of the task's stream, as attempt and sequence. Something else under the stream's name has
-- taken its place: it is lost, and what the task still has to say needs a stream.
local function top()
  if newest_attempt then return newest_attempt, newest_sequence end
  newest_attempt, newest_sequence = 0, 0
  if redis.call('TYPE', events).ok ~= 'stream' then
    redis.call('DEL', events)
    return 0, 0
  end
  local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  if newest then
    local attempt, sequence = string.match(newest[1], '^(%d+)-(%d+)$')
    newest_attempt, newest_sequence = tonumber(attempt), tonumber(sequence)
  end
  return newest_attempt, newest_sequence
end

-- True when Redis no longer has the entry that a worker says it wrote last, given as its id.
local function has_lost(written)
  local attempt, sequence = string.match(written, '^(%d+)-(%d+)$')
  local top_attempt, top_sequence = top()
  attempt, sequence = tonumber(attempt), tonumber(sequence)
  return top_attempt < attempt or (top_attempt == attempt and top_sequence < sequence)
end

-- Appends one event and rings the doorbell: "<id of the entry before> <id> <type> <data>" (event_stream.Announcement).
local function append(attempt, sequence, kind, data)
  local before_attempt, before_sequence = top()
  local entry = string.format('%d-%d', attempt, sequence)
  redis.call('XADD', events, entry, 't', kind, 'd', data)
  newest_attempt, newest_sequence = attempt, sequence
  redis.call('PUBLISH', events,
    string.format('%d-%d %s %s %s', before_attempt, before_sequence, entry, kind, data))
end

-- The JSON of a status or end event; extra starts with a comma or is empty.
local function state_event(kind, state, extra)
  return string.format('{"type":"%s","taskId":"%s","state":"%s"%s}', kind, id, state, extra or '')
end
