-- Where any Celery client looks for the task's result (`AsyncResult(id)`), and what it listens to.
local function celery_result() return 'celery-task-meta-' .. id end

-- Writes and announces it as Celery's own backend does. `result` is JSON. Every script that does so is given `retention_ms`.
local function tell_celery(call, status, result, date_done)
  local record = string.format('{"status": "%s", "result": %s, "traceback": null, "children": [], "date_done": %s, ' ..
    '"task_id": "%s"}', status, result, date_done, id)
  call('SET', celery_result(), record, 'PX', args.retention_ms)
  call('PUBLISH', celery_result(), record)
end

-- A Redis that refuses this keeps no task from beginning.
local function show_started(hostname)
  tell_celery(redis.pcall, 'STARTED', '{"hostname": ' .. cjson.encode(hostname) .. '}', 'null')
end

-- `result` of a task that succeeded; another one raises at who waits for it. `ended_at` is given in Celery's form.
local function store_result(state, outcome, result)
  if state == 'FAILURE' then
    local error = cjson.decode(outcome)
    result = '{"exc_type": "TaskFailed", "exc_message": [' .. cjson.encode(error.code .. ': ' .. error.message) ..
      '], "exc_module": null}'
  elseif state == 'REVOKED' then
    result = '{"exc_type": "TaskRevokedError", "exc_message": ["cancelled"], "exc_module": "celery.exceptions"}'
  end
  tell_celery(redis.call, state, result, '"' .. args.ended_at .. '"')
end
