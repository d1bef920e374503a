from lin import *
from common import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy()
S=slice(0,1120)
def run(tag,m,y,pen,cols=S,w=None,**k):
    f=ridge(POOL[m][:,cols],y[m],pen); report(f'{tag} n={m.sum()}',f(DEV[:,cols]),f(SYNF[:,cols]),f(POOL[HELD][:,cols]),HT,**k); return f
cl=META.clean.to_numpy(); lf=META.logfr.to_numpy(); fr=META.frrank.to_numpy()
m=tr&(K=='clean')
for pen in (1e4,3e4,1e5): run(f'clean both: clean {pen:g}',m,cl,pen)
m2=tr
run('clean+web: clean(web undistorted=1)',m2,cl,3e4)
# only photos undistorted are clean; web originals left out
m3=tr&((K=='clean')|(SRC!='clean')); run('clean + web distorted only: clean',m3,cl,3e4)
run('logfr both',m,lf,3e4); run('z(clean)+z(logfr)',m,z(cl)+z(lf),3e4); run('z(clean)+z(fr)',m,z(cl)+z(fr),3e4)
y=z(cl)+z(lf)+z(fr); run('all three',m,y,3e4)
# clean vs web originals: domain
md=tr&(SRC=='clean'); run('photos vs web originals',md,(K=='clean').astype(float),1e4)
run('head feats 1280: clean',m,cl,3e4,cols=slice(1120,2400)); run('both feats: clean',m,cl,3e4,cols=slice(0,2400))
# per stage
ch=[16,24,48,120,352]; o=0
for i,c in enumerate(ch):
    run(f'stage {i} clean',m,cl,1e4,cols=slice(o,o+2*c)); o+=2*c
b=backbone()
with torch.inference_mode():
    lg=b.classifier(torch.tensor(DEV[:,1120:])); p=lg.softmax(1)
    for n,v in dict(maxlogit=lg.amax(1),entropy=-(-(p*p.log()).sum(1)),energy=lg.logsumexp(1),norm=torch.tensor(DEV[:,1120:]).norm(dim=1)).items(): print(n,sr(v,MOS))
